// The adaptive network, forward.  Compiled once per instruction set.
#include "aru_sequence.h"
#include "kernels.h"
#include "leak.h"

namespace aru {
namespace ARU_ISA {
namespace {

// A ring of slots for state that is not kept: strip i of a part lies in slot (i - t) mod (count + 1) at step t.  A
// strip writes to the slot that the previous strip has read, so the part's state takes as little memory as possible.
template <class U> struct Ring {
  U* memory = nullptr;
  int64_t slots = 0, size = 0, shift = 0;  // shift: t mod slots

  U* slot(int64_t i) const { return memory + (i >= shift ? i - shift : i - shift + slots) * size; }
  U* next_slot(int64_t i) const { return i > shift ? slot(i - 1) : slot(i + slots - 1); }
  void advance() { shift = shift + 1 == slots ? 0 : shift + 1; }
};

template <class S>
void forward_tile(const AruForward& f, const Weights<S>& w, const Tile& tile, scalar_of<S>* scratch_a,
                  const TileLeak<scalar_of<S>>& leak, const Member& member) {
  using T = scalar_of<S>;
  using U = stored_of<S>;
  const SequenceSizes& z = f.sizes;
  const int64_t step = z.B * z.H, size = strip_elements<S>(z.G), strips = ceil_div(tile.rows, strip<T>);
  const int64_t slot = slot_elements<S>(z), parts = part_count(z), panels = w.recurrent.panels(z.H);
  const bool keep_all = f.kept && z.segment == 1;
  U* kept = kept_of_tile<S>(z, f.kept, tile.index);

  Ring<U> rings[most_parts];
  const auto carve_rings = [&](Carver carve) {
    for (int64_t p = member.index; p < parts; p += member.size) {
      const int64_t count = Part(z, strips, p).count, ring_slots = keep_all ? count : count + 1;  // or only g0
      rings[p] = {carve.take<U>(ring_slots * size), ring_slots, size};
    }
    return carve.used();
  };
  carve_rings(Carver(thread_scratch(carve_rings(Carver()))));

  // Kept memory is defined throughout: the padding of a strip, and what a smaller last tile leaves unused, are zero.
  const int64_t used = padded_units<S>(z.G) / S::units * strip<T>;
  const auto pad = [&](U* strip_of_state) {
    if (used < size) std::memset(strip_of_state + used, 0, sizeof(U) * size_t(size - used));
  };
  if (kept && strips * size < slot && member.index == 0)
    for (int64_t k = 0; k < slots(z); ++k)
      std::memset(kept + k * slot + strips * size, 0, sizeof(U) * size_t(slot - strips * size));

  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      U* g = rings[p].slot(k);
      pad(g);
      strip_from_rows<S>(at<T>(f.g0, (tile.offset + i * strip<T>)*z.G), tile.rows - i * strip<T>, z.G, g);
    }
  }

  for (int64_t t = 0; t < z.T; ++t) {
    const int64_t rows = t * step + tile.offset;
    const T* xp = at<T>(f.xp, rows);
    T *h = at<T>(f.h, rows), *a_out = f.a ? at<T>(f.a, rows) : scratch_a;
    const T *a_rows = a_out, *before = t ? h - step : at<T>(f.h0, tile.offset);
    if (f.weight_hh) {
      multiply(w.recurrent, before, xp, a_out, tile.count, member.begin(panels), member.end(panels));
    } else if (f.a) {
      if (member.index == 0) std::memcpy(a_out, xp, sizeof(T) * size_t(tile.rows));
    } else {
      a_rows = xp;
    }
    member.wait();  // for all of a_t
    const int64_t ahead = t + 1 < z.T ? rows + step : rows;
    const bool checkpoint = f.kept && !keep_all && t % z.segment == 0;
    for (int64_t p = member.index; p < parts; p += member.size) {
      const Part part(z, strips, p);
      Ring<U>& ring = rings[p];
      for (int64_t first = 0; first < part.count; first += gamma_strips) {
        const int count = int(at_most(gamma_strips, part.count - first));
        Strip<T> a[gamma_strips], n[gamma_strips], s[gamma_strips];
        for (int q = count; q < gamma_strips; ++q) a[q] = n[q] = s[q] = Strip<T>{};
        for (int q = 0; q < count; ++q) {
          const int64_t k = first + q, i = part.first + k, row = i * strip<T>, left = tile.rows - row;
          const U* g = keep_all && t ? kept + (t - 1) * slot + i * size : ring.slot(k);
          U* g_next = keep_all ? kept + t * slot + i * size : ring.next_slot(k);
          if (checkpoint) std::memcpy(kept + t / z.segment * slot + i * size, g, sizeof(U) * size_t(size));
          prefetch_row(at<T>(f.xp, ahead + row));
          for (void* out : {f.h, f.a, f.n, f.s})
            if (out) prefetch_row_to_write(at<T>(out, ahead + row));
          a[q] = load_strip(a_rows + row, left);
          w.controller.step(a[q], g, g_next, n[q], s[q]);
          if (f.kept) pad(g_next);
          if (f.n) {
            store_strip(at<T>(f.n, rows) + row, n[q], left);
            store_strip(at<T>(f.s, rows) + row, s[q], left);
          }
        }
        const auto values = gamma_value(pack_strips<T, gamma_strips>(a), pack_strips<T, gamma_strips>(n),
                                        pack_strips<T, gamma_strips>(s), T(f.n_floor));
        for (int q = 0; q < count; ++q) {
          const int64_t row = (part.first + first + q) * strip<T>;
          store_strip(h + row, strip_of<T>(values, q), tile.rows - row);
        }
      }
      if (leak) {
        const int64_t row = part.first * strip<T>;
        apply_leak(h + row, before + row, leak.rate + row, at_most(part.count * strip<T>, tile.rows - row));
      }
      if (!keep_all) ring.advance();
    }
    member.wait();  // for all of h_t
  }
  for (int64_t p = member.index; p < parts; p += member.size) {
    const Part part(z, strips, p);
    for (int64_t k = 0; k < part.count; ++k) {
      const int64_t i = part.first + k;
      const U* g = keep_all ? kept + (z.T - 1) * slot + i * size : rings[p].slot(k);
      rows_from_strip<S>(g, tile.rows - i * strip<T>, z.G, at<T>(f.g_last, (tile.offset + i * strip<T>)*z.G));
    }
  }
}

template <class S> void forward(const AruForward& f) {
  using T = scalar_of<S>;
  const SequenceSizes& z = f.sizes;
  const Weights<S> w(z, f.weight_hh, true, f.controller);
  const int64_t tiles = tile_count(z), rows = padded_rows<T>(z);
  const Buffer<T> scratch_a(f.a ? 0 : tiles * rows);
  const Leak<T> leak(z, f.leak, false);
  parallel_teams(tiles, part_count(z), f.threads, [&](int64_t i, const Member& member) {
    forward_tile<S>(f, w, Tile(z, i), scratch_a.from(i * rows), leak.of_tile(i), member);
  });
}

}  // namespace

int64_t strip_rows(Scalar scalar) {
  return with_storage(scalar, [](auto s) -> int64_t { return strip<scalar_of<decltype(s)>>; });
}

int64_t kept_elements(Scalar scalar, const SequenceSizes& z) {
  return with_storage(scalar, [&](auto s) { return tile_count(z) * slots(z) * slot_elements<decltype(s)>(z); });
}

void aru_fwd(Scalar scalar, const AruForward& f) {
  with_storage(scalar, [&](auto s) { forward<decltype(s)>(f); });
}

}  // namespace ARU_ISA
}  // namespace aru
