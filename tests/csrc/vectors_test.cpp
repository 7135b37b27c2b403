// Compiled once per instruction set: minimum and maximum of vectors, NaN included.
#include "vectors_test.h"

#include "cpu/simd.h"

#define ARU_NAME_OF(isa) #isa
#define ARU_NAME(isa) ARU_NAME_OF(isa)

namespace aru {
namespace ARU_ISA {
namespace {

template <class T> const char* check() {
  const T infinity = T(__builtin_inf()), nan = T(__builtin_nan(""));
  const T values[] = {-infinity, T(-2), T(-0.5), T(0.25), T(3), infinity};
  for (const T a : values) {
    for (const T b : values) {
      vec<T> x = splat<vec<T>>(a), y = splat<vec<T>>(b);
      asm("" : "+m"(x), "+m"(y));  // computed by the instructions and not by the compiler
      const vec<T> low = extremes<vec<T>>::min(x, y), high = extremes<vec<T>>::max(x, y);
      for (int i = 0; i < lanes<T>; ++i) {
        if (low[i] != (a < b ? a : b)) return "a wrong minimum";
        if (high[i] != (a > b ? a : b)) return "a wrong maximum";
      }
    }
    for (int lane = 0; lane < lanes<T>; ++lane) {
      vec<T> x = splat<vec<T>>(a), y = splat<vec<T>>(T(1));
      y[lane] = nan;
      asm("" : "+m"(x), "+m"(y));
      const vec<T> low = extremes<vec<T>>::min(x, y), high = extremes<vec<T>>::max(x, y);
      for (int i = 0; i < lanes<T>; ++i) {
        if ((low[i] != low[i]) != (i == lane)) return "a minimum that loses or invents a NaN of its second argument";
        if ((high[i] != high[i]) != (i == lane)) return "a maximum that loses or invents a NaN of its second argument";
      }
    }
  }
  return nullptr;
}

const char* check_all() {
  const char* failure = check<float>();
  return failure ? failure : check<double>();
}

const bool added = [] {
  add_vector_check({ARU_NAME(ARU_ISA), check_all});
  return true;
}();

}  // namespace
}  // namespace ARU_ISA
}  // namespace aru
