// How a device takes a sequence: the tiling with the least estimated time among those that fit.
#pragma once

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "launch.h"

namespace aru {
namespace cuda {

// Clocks of a step, estimated from the H100's published rates; what matters is their order.
struct StepCost {
  static constexpr double exchange_cluster = 1000, exchange_device = 2500, exchange_device_per_block = 30;
  static constexpr double latency = 1200;    // of the chain of dependent instructions outside the products
  static constexpr double product = 16;      // of a sub-core's matrix unit
  static constexpr double product_latency = 33;
  static constexpr double sub_cores = 4;
};

// Matrix instructions for 16 k; one of TF32 takes 8 k in as many clocks as one of bfloat16 takes 16.
constexpr int instructions_of(Form form) { return form == Form::bf16 ? 1 : form == Form::tf32 ? 2 : 6; }

inline double step_clocks(const Tiling& t, const Shape& s, Form form, int tiles, bool backward) {
  using C = StepCost;
  const double products = instructions_of(form), k = (tiles + 1) / 2;
  const double exchange = t.cluster ? C::exchange_cluster : C::exchange_device + C::exchange_device_per_block * t.blocks;
  const double tasks = ceil_div(s.row_tiles * s.k_splits, t.warps), k_each = double(s.k_tiles) / s.k_splits;
  const double recurrent = std::max(tasks * k_each * products * C::product_latency,
                                    s.row_tiles * s.k_tiles * products * C::product / C::sub_cores);
  // A pair of row tiles: products, tanh, and what accompanies a column tile.
  const double controller_products = 2 * k * (backward ? 3 * tiles + 1 : tiles + 1) * products * C::product;
  const double elements = 2.0 * tiles * 4 * (form == Form::bf16 ? 16 : 24) * (backward ? 1.5 : 1);
  const double pairs_of_sub_core = std::max(double(ceil_div(s.pairs, t.warps)), s.pairs / C::sub_cores);
  return exchange + C::latency + recurrent + pairs_of_sub_core * (controller_products + elements + 200);
}

using MostGroups = std::function<int(const Tiling&)>;

// Throws std::invalid_argument with the end of a sentence that says why no kernel serves the sizes on the device.
inline Tiling plan(const Device& device, const Sizes& z, Form form, bool backward, const MostGroups& most_groups) {
  const int tiles = column_tiles(backward, z.G);
  if (tiles < 0)
    throw std::invalid_argument("its kernels take at most " + std::to_string(largest_controller) +
                                " controller units, got G = " + std::to_string(z.G));
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
      if (slice * (blocks - 1) >= z.H) continue;  // a block without neurons
      for (int batch = 1; batch <= std::min(largest_batch, z.B); ++batch) {
        Tiling t{cluster, blocks, slice, batch, 0, 1};
        const int pairs = ceil_div(slice * batch, 32);
        if (pairs > largest) break;
        t.warps = std::max(pairs, fewest);
        const Shape s = shape_of(t, form, tiles, backward);
        if (s.total > device.shared_bytes) break;
        const int needed = ceil_div(z.B, batch);
        t.groups = std::min(needed, cluster ? most_groups(t) : device.multiprocessors / blocks);
        if (t.groups < 1) continue;
        const double clocks = ceil_div(needed, t.groups) * step_clocks(t, s, form, tiles, backward);
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
