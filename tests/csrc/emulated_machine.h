// A group of CUDA blocks on the host: every CUDA thread is a fiber, and what a warp or a block does together is a
// meeting of its fibers.  prim_emulated.h has the instructions.
//
// What the emulation is strict about: shared memory starts as NaN and ends at a guard page; lanes that meet in
// different instructions, barriers that nobody can leave, misuse of an mbarrier and a TF32 operand with more bits than
// its own end the launch with a sentence; asynchronous stores arrive late, where the schedule says so.  A schedule
// decides who runs: in order, in reverse, at random, or with one block after another kept from running.
//
// Under ThreadSanitizer every fiber is a thread of its own, and only what orders threads on a GPU orders them:
// barriers, an mbarrier's phase, a release that was acquired.  That a warp meets for a product or a shuffle orders
// nothing.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace aru {
namespace emulation {

#ifdef __x86_64__
// Saves the callee's registers and the stack in *from, and continues where `to` was saved.
extern "C" void aru_switch_stack(void** from, void* to);
#ifdef ARU_EMULATION_MAIN
__asm__(R"(
.text
.globl aru_switch_stack
aru_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif
struct Context {
  void* stack = nullptr;
  void prepare(uint8_t* bottom, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(bottom + size);
    top[-2] = reinterpret_cast<void*>(entry);  // the function starts with the stack as after a call
    stack = top - 8;
  }
  void switch_to(Context& other) { aru_switch_stack(&stack, other.stack); }
};
#else
struct Context {
  ucontext_t context;
  void prepare(uint8_t* bottom, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = bottom;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

#ifdef __SANITIZE_THREAD__
// While it exists, ThreadSanitizer ignores accesses: those of the emulation itself do not exist on a GPU.
class Machinery {
 public:
  Machinery() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Machinery() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
inline void release(void* mark) { __tsan_release(mark); }
inline void acquire(void* mark) { __tsan_acquire(mark); }
// A thread for ThreadSanitizer.
class Identity {
 public:
  void create() { fiber_ = __tsan_create_fiber(0); }
  void take_current() { fiber_ = __tsan_get_current_fiber(); }
  void destroy() { __tsan_destroy_fiber(fiber_); }
  void assume() const { __tsan_switch_to_fiber(fiber_, __tsan_switch_to_fiber_no_sync); }

 private:
  void* fiber_ = nullptr;
};
#else
struct Machinery {
  Machinery() {}  // not trivial, so that compilers do not report it as unused
};
inline void release(void*) {}
inline void acquire(void*) {}
struct Identity {
  void create() {}
  void take_current() {}
  void destroy() {}
  void assume() const {}
};
#endif

struct Schedule {
  enum Order { in_order, reversed, random };
  Order order = in_order;
  bool starve = false;    // one block after another does not run for a while
  bool deferred = false;  // asynchronous stores arrive at a random later time, copies when they are waited for
  unsigned seed = 0;
};

// The marks of successive meetings alternate, so that a thread that leaves one late does not acquire the next one.
struct Marks {
  char of[2];
  void* mark(uint64_t generation) { return &of[generation & 1]; }
};
struct Warp {
  int arrived = 0, operation = 0;
  uint64_t generation = 0;
  Marks marks;
  uint32_t in[32][10], out[32][4];
};
struct Barrier {
  int arrived = 0;
  uint64_t generation = 0;
  Marks marks;
};
// Sums of products of a group of warps: computed when a thread waits for them, NaN until then.
struct GroupSums {
  float* at;
  std::vector<float> values;
  std::vector<std::function<void()>> products;
};
// An asynchronous copy between shared and device memory.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
struct Fiber {
  Context context;
  std::vector<Copy> copies, bulk_stores;
  std::vector<GroupSums> group_sums;
  bool group_open = false;
  Identity identity;
  int block, thread;
  bool done = false;
};
struct Store {
  int block;
  size_t at, barrier;
  uint32_t words[2];
};
// An mbarrier, in 8 bytes as on the device.
struct MBarrier {
  int16_t expected, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
static_assert(sizeof(MBarrier) == 8, "an mbarrier has 8 bytes");

class Machine {
 public:
  int blocks, threads, shared_bytes, first_block;
  Schedule schedule;
  std::function<void()> body;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Barrier> block_barriers;  // four of each block
  Barrier cluster_barrier;
  std::vector<uint8_t*> shared;
  std::vector<Store> stores;
  Context main;
  Identity main_identity;
  char begun = 0, *ended = nullptr;  // marks
  Fiber* current = nullptr;
  uint64_t progress = 0;
  std::string failure;
  std::mt19937 generator;

  static Machine*& running() {
    static thread_local Machine* machine = nullptr;
    return machine;
  }

  // Ends the launch; called by a fiber.
  [[noreturn]] void fail(const std::string& what) {
    failure = what + " (block " + std::to_string(first_block + current->block) + ", thread " +
              std::to_string(current->thread) + ")";
    yield();
    __builtin_unreachable();
  }
  void yield() {
    Fiber* from = current;
    main_identity.assume();
    from->context.switch_to(main);
  }

  template <class Arrive>
  void warp_operation(int operation, const uint32_t* in, int inputs, uint32_t* out, int outputs,
                      const Arrive& compute) {
    const Machinery machinery;
    Warp& w = warps[size_t(current->block * threads + current->thread) / 32];
    const int lane = current->thread & 31;
    if (w.arrived && w.operation != operation) fail("lanes of a warp meet in different instructions");
    w.operation = operation;
    std::memcpy(w.in[lane], in, sizeof(uint32_t) * size_t(inputs));
    const uint64_t generation = w.generation;
    if (++w.arrived == 32) {
      compute(w);
      w.arrived = 0;
      ++w.generation;
      ++progress;
    } else {
      while (w.generation == generation) yield();
    }
    std::memcpy(out, w.out[lane], sizeof(uint32_t) * size_t(outputs));  // valid until all lanes meet again
  }

  Barrier& barrier(int index) { return block_barriers[size_t(current->block) * 4 + size_t(index)]; }
  void meet(Barrier& b, int count) {
    const Machinery machinery;
    const uint64_t generation = b.generation;
    release(b.marks.mark(generation));
    if (++b.arrived == count) {
      b.arrived = 0;
      ++b.generation;
      ++progress;
    } else {
      while (b.generation == generation) yield();
    }
    acquire(b.marks.mark(generation));
  }

  size_t shared_offset(const void* p, size_t bytes) {
    const uint8_t *at = static_cast<const uint8_t*>(p), *base = shared[size_t(current->block)];
    if (at < base || at + bytes > base + shared_bytes) fail("an address outside the block's shared memory");
    if (size_t(at - base) % bytes) fail("a misaligned address in shared memory");
    return size_t(at - base);
  }
  MBarrier& mbarrier(int block, size_t offset) { return *reinterpret_cast<MBarrier*>(shared[size_t(block)] + offset); }
  void end_phase(MBarrier& b) {
    if (b.pending || b.bytes) return;
    b.pending = b.expected;
    b.phase ^= 1;
    ++progress;
  }
  void arrive(const Store& s) {
    std::memcpy(shared[size_t(s.block)] + s.at, s.words, 8);
    const Machinery machinery;
    MBarrier& b = mbarrier(s.block, s.barrier);
    release(&b);
    b.bytes -= 8;
    end_phase(b);
    ++progress;
  }

  void run() {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), stack_bytes = 256 << 10;
    const size_t memory = (size_t(shared_bytes) + page - 1) / page * page, count = size_t(blocks * threads);
    generator.seed(schedule.seed);
    fibers.resize(count);
    warps.resize(count / 32);
    block_barriers.resize(size_t(blocks) * 4);
    std::vector<uint8_t*> mapped;
    for (int b = 0; b < blocks; ++b) {
      auto* p = static_cast<uint8_t*>(
          mmap(nullptr, memory + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      mprotect(p + memory, page, PROT_NONE);
      std::memset(p, 0xff, memory);
      mapped.push_back(p);
      shared.push_back(p + memory - shared_bytes);
    }
    auto* stacks = static_cast<uint8_t*>(
        mmap(nullptr, stack_bytes * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (size_t i = 0; i < count; ++i) {
      fibers[i].block = int(i) / threads;
      fibers[i].thread = int(i) % threads;
      fibers[i].identity.create();
      fibers[i].context.prepare(stacks + stack_bytes * i, stack_bytes, start);
    }
    running() = this;
    main_identity.take_current();
    release(&begun);
    schedule_until_done();
    running() = nullptr;
    munmap(stacks, stack_bytes * count);
    for (uint8_t* p : mapped) munmap(p, memory + page);
    if (!failure.empty()) throw std::runtime_error("emulation: " + failure);
  }
  ~Machine() {
    if (!failure.empty()) return;  // fibers that did not end cannot be destroyed
    for (Fiber& f : fibers) f.identity.destroy();
  }

 private:
  static void start() {
    Machine& m = *running();
    acquire(&m.begun);
    m.body();
    if (!m.current->copies.empty() || !m.current->bulk_stores.empty()) m.fail("a copy that nobody waits for");
    release(m.ended);
    {
      const Machinery machinery;
      m.current->done = true;
      ++m.progress;
    }
    m.yield();
    __builtin_unreachable();
  }

  void resume(size_t fiber) {
    if (fibers[fiber].done) return;
    current = &fibers[fiber];
    current->identity.assume();
    main.switch_to(current->context);
  }

  void deliver(bool all) {
    std::vector<Store> now;
    now.swap(stores);
    for (const Store& s : now) {
      if (all || generator() % 4 == 0)
        arrive(s);
      else
        stores.push_back(s);
    }
  }

  // Runs one warp after another, each until it has to wait.
  void schedule_until_done() {
    std::vector<size_t> order(warps.size());
    for (size_t w = 0; w < order.size(); ++w)
      order[w] = schedule.order == Schedule::reversed ? order.size() - 1 - w : w;
    int fed = 0;  // passes without a starving block, after all other blocks had to wait
    for (uint64_t pass = 0;; ++pass) {
      if (schedule.order == Schedule::random) std::shuffle(order.begin(), order.end(), generator);
      const int starved = schedule.starve && fed == 0 ? int(pass / 16 % uint64_t(blocks)) : -1;
      if (fed) --fed;
      const uint64_t before = progress;
      bool left = false;
      for (size_t w : order) {
        if (fibers[w * 32].block == starved) {
          left = true;
          continue;
        }
        for (uint64_t last = ~uint64_t(0); last != progress;) {
          last = progress;
          for (size_t l = 0; l < 32; ++l) {
            resume(w * 32 + (schedule.order == Schedule::reversed ? 31 - l : l));
            if (!failure.empty()) return;
          }
          if (schedule.order == Schedule::random && generator() % 8 == 0) break;
        }
        for (size_t l = 0; l < 32; ++l) left |= !fibers[w * 32 + l].done;
      }
      if (!stores.empty()) deliver(before == progress && starved < 0);
      if (!left) return;
      if (before == progress) {
        if (starved < 0) {
          failure = "nobody can go on: a barrier, or a wait for data that nobody sends";
          return;
        }
        fed = 8;
      }
    }
  }
};

// Runs all groups of a launch, one after another; to ThreadSanitizer they are not ordered.
inline void launch(int groups, int blocks, int threads, int shared_bytes, const Schedule& schedule,
                   const std::function<void()>& body) {
  const Machinery machinery;
  std::vector<std::unique_ptr<Machine>> machines;
  const auto ended = std::make_unique<char>();
  for (int group = 0; group < groups; ++group) {
    machines.push_back(std::make_unique<Machine>());
    Machine& m = *machines.back();
    m.blocks = blocks;
    m.threads = threads;
    m.shared_bytes = shared_bytes;
    m.first_block = group * blocks;
    m.schedule = schedule;
    m.body = body;
    m.ended = ended.get();
    m.run();
  }
  acquire(ended.get());
}

inline Machine& machine() { return *Machine::running(); }

}  // namespace emulation
}  // namespace aru
