#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernels.h"

namespace aru {

// setup.py defines ARU_X86 if it builds the x86 sets in addition to the generic one.
#ifdef ARU_X86
namespace avx512bf16 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
#endif
namespace generic { extern const Kernels table; }

namespace {

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> tables;
#ifdef ARU_X86
  __builtin_cpu_init();
#ifdef ARU_AVX512_EVERYWHERE  // tests build its source for another instruction set, to run it on any machine
  tables.push_back(&avx512::table);
#else
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512bf16::table);
    tables.push_back(&avx512::table);
  }
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&avx2::table);
#endif
  tables.push_back(&generic::table);
  return tables;
}

const Kernels* find(const std::string& isa, const char* asked_by) {
  const auto tables = usable();
  if (isa.empty() || isa == "auto") return tables.front();
  std::string names = "auto";
  for (const Kernels* table : tables) {
    if (isa == table->isa) return table;
    names += std::string(", ") + table->isa;
  }
  throw std::invalid_argument(std::string(asked_by) + " is '" + isa + "', but this build on this processor has " +
                              names + ".");
}

std::atomic<const Kernels*> selected{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* table = selected.load(std::memory_order_acquire);
  if (!table) {
    const char* wanted = std::getenv("ARU_CPU_ISA");
    table = find(wanted ? wanted : "auto", "ARU_CPU_ISA");
    selected.store(table, std::memory_order_release);
  }
  return *table;
}

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : usable()) names.push_back(table->isa);
  return names;
}

void select_isa(const std::string& isa) { selected.store(find(isa, "isa"), std::memory_order_release); }

}  // namespace aru
