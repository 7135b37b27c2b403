// The team of the calling thread, and the thread's place in it (sequence.h).
#pragma once

#include "prim.cuh"
#include "sequence.h"

namespace aru {
namespace cuda {

struct OwnTeam {
  const Team& team;
  int index;  // of the team in its block
  int warp, thread;

  template <class Arguments> ARU_DEVICE OwnTeam of(const Arguments& p) {
    const int index = p.tiling.teams > 1 && warp_index() >= p.shape.team[1].first_warp;
    const Team& team = p.shape.team[index];
    return {team, index, warp_index() - team.first_warp, thread_index() - team.first_warp * 32};
  }
  // Whether the warp has rows.
  ARU_METHOD bool working() const { return warp < team.pairs; }
  ARU_METHOD void sync() const { sync_threads(1 + index, team.warps * 32); }
};

}  // namespace cuda
}  // namespace aru
