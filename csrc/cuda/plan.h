// The choice of a tiling: the one with the least estimated time among those that fit the device.
#pragma once

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "launch.h"

namespace aru {
namespace cuda {

// The cost of a step in clocks, fitted to measurements on an H100 and H200: bf16 to about 110 tilings of one network
// and one tiling of a small one (2026-11-27), tf32 and split each to about 450 tilings of six networks (2026-11-26).
// The typical error is 10%.  Only the order of the estimates matters.  mixed has not been measured: its estimate is
// that of bf16, and 16 clocks for each 2048 bytes of weights that its recurrent product reads beyond those of bf16.
struct StepCost {
  double latency;
  double device, device_per_block;  // of an exchange through device memory, beyond one in a cluster
  double chain;                     // of a product in the recurrent product that waits for the previous one
  double recurrent;                 // of a recurrent product of a sub-core
  double pairs;                     // of a controller product of each pair of row tiles of a sub-core
  double controller;                // of a controller product, independent of the rows
};
constexpr StepCost step_costs[2][4] = {{{1750, 3200, 36, 13, 0, 8.2, 17},          // forward: bf16
                                        {2960, 1950, 143, 11.3, 14.7, 3.9, 39.6},  // tf32
                                        {3220, 1960, 221, 7.4, 7.0, 4.7, 16.0},    // split
                                        {1750, 3200, 36, 13, 8, 8.2, 17}},         // mixed
                                       {{3235, 2570, 71, 33, 3.4, 9.7, 9.1},       // backward
                                        {420, 1750, 231, 38, 33, 21, 32},
                                        {0, 1240, 370, 14, 20, 10.4, 13.6}}};

inline double step_clocks(const Device& device, const Tiling& t, const Shape& s, Form form, int tiles, bool backward) {
  constexpr int sub_cores = 4;
  const StepCost& cost = step_costs[backward][int(form)];
  const double products = instructions_of(form), of_state = instructions_of(state_form(form)), k = (tiles + 1) / 2;
  const double resident = ceil_div(t.groups * t.blocks, device.multiprocessors);  // blocks of a multiprocessor
  const double exchange = t.cluster ? 0 : cost.device + cost.device_per_block * t.blocks;
  const double chain = ceil_div(s.k_tiles, s.k_splits) * std::max(1, ceil_div(s.row_tiles, t.warps)) * products;
  const double recurrent = resident * s.row_tiles * s.k_tiles * products / sub_cores;
  const double controller = 2 * k * (backward ? 3 * tiles + 1 : tiles + 1) * of_state;
  const double pairs = resident * ceil_div(s.pairs, sub_cores) * (controller + 8 * of_state);
  return cost.latency + exchange + cost.chain * chain + cost.recurrent * recurrent + cost.pairs * pairs +
         cost.controller * controller;
}

using MostGroups = std::function<int(const Tiling&)>;

// Throws std::invalid_argument if no kernel serves the sizes on the device; its text is the end of a sentence that says
// why.
inline Tiling plan(const Device& device, const Sizes& z, Form form, bool backward, const MostGroups& most_groups) {
  const int tiles = column_tiles(backward, z.G);
  if (tiles < 0)
    throw std::invalid_argument("its kernels take at most " + std::to_string(largest_controller) +
                                " controller units, got G = " + std::to_string(z.G));
  if (form == Form::mixed && (backward || tiles == 0 || !device.warp_groups))
    throw std::invalid_argument(
        "its `mixed` kernels serve the forward pass of the adaptive network on GPUs with groups "
        "of warps (sm_90a), got " +
        std::string(backward     ? "the backward pass"
                    : tiles == 0 ? "the static network"
                                 : device.name));
  if (int64_t(z.B) * z.H > INT32_MAX)
    throw std::invalid_argument("its kernels take at most 2^31 - 1 neurons of all sequences, got B * H = " +
                                std::to_string(int64_t(z.B) * z.H));
  const int largest = most_warps(form), fewest = least_warps(form, tiles, backward);
  Tiling best{};
  double least = 0;
  for (int cluster = device.clusters > 0; cluster >= 0; --cluster) {
    const int most_blocks = cluster ? device.clusters : device.multiprocessors;
    for (int blocks = 1; blocks <= most_blocks; ++blocks) {
      const int slice = round_up(ceil_div(z.H, blocks), 4);
      if (slice * (blocks - 1) >= z.H) continue;  // a block would have no neurons
      for (int batch = 1; batch <= std::min(largest_batch, z.B); ++batch) {
        Tiling t{cluster, blocks, slice, batch, 0, 1};
        t.together = warps_together(form, tiles, device.warp_groups);
        const int working = round_up(ceil_div(slice * batch, 32), t.together);
        if (working > largest) break;
        t.warps = std::max(working, fewest);
        const Shape s = shape_of(t, form, tiles, backward);
        if (s.total > device.shared_bytes) break;
        const int needed = ceil_div(z.B, batch);
        t.groups = std::min(needed, cluster ? most_groups(t) : device.multiprocessors / blocks);
        if (t.groups < 1) continue;
        const double clocks = ceil_div(needed, t.groups) * step_clocks(device, t, s, form, tiles, backward);
        if (best.warps == 0 || clocks < least) {
          best = t;
          least = clocks;
        }
      }
    }
  }
  if (best.warps == 0)
    throw std::invalid_argument("the recurrent weights of H = " + std::to_string(z.H) +
                                " neurons do not fit the shared memory of " + device.name + " (" +
                                std::to_string(device.multiprocessors) + " multiprocessors of " +
                                std::to_string(device.shared_bytes) + " bytes) at this matmul precision");
  return best;
}

}  // namespace cuda
}  // namespace aru
