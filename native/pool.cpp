#include "pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "abi.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace of {
namespace {

constexpr int MOST = 256;
constexpr auto SPIN = std::chrono::microseconds(50);

void rest() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Looks again and again for at most 50 microseconds; whether `done` came true.
template <class F>
bool spin_until(F done) {
    const auto end = std::chrono::steady_clock::now() + SPIN;
    for (;;) {
        for (int i = 0; i < 32; ++i) {
            if (done()) return true;
            rest();
        }
        if (std::chrono::steady_clock::now() >= end) return done();
    }
}

// Says of the calling thread that it computes a chunk, however it leaves.
class Within {
  public:
    Within() { is() = true; }
    ~Within() { is() = false; }
    static bool& is() {
        static thread_local bool within = false;
        return within;
    }
};

// One call of run_parallel, on the caller's stack. Workers hold it only while they are counted in Pool::inside_, and the
// caller waits for that to be none of them, whatever was thrown.
struct Call {
    Body body;
    void* context;
    int64_t count, grain;
    int helpers;
    std::atomic<int64_t> next{0};
    std::atomic<int> joined{0};
    std::atomic<bool> failed{false};
    std::exception_ptr wrong{};  // written by the first that fails, read when all have left

    void work(int thread) noexcept {
        try {
            for (;;) {
                const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
                if (begin >= count) return;
                body(context, begin, begin + grain < count ? begin + grain : count, thread);
            }
        } catch (...) {
            if (!failed.exchange(true)) wrong = std::current_exception();
            next.store(count, std::memory_order_relaxed);  // the others stop after their chunk
        }
    }
};

// A worker inherits the mask of who starts it: signals are for the program's own threads, whose calls they interrupt.
// Those that a thread's own faults raise stay, so that who reports crashes still does.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
        pthread_sigmask(SIG_BLOCK, &all, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

class Pool {
  public:
    // Whether the call was run; not where another is being run.
    bool run(Call& call) {
        if (busy_.exchange(true, std::memory_order_acquire)) return false;
        grow(call.helpers);
        int sleeping;
        {
            // Under the lock, or a worker that is about to sleep would miss it.
            std::lock_guard<std::mutex> lock(mutex_);
            call_.store(&call, std::memory_order_seq_cst);
            epoch_.fetch_add(1, std::memory_order_release);
            sleeping = asleep_;
        }
        // Who spins comes by itself; no more are woken than there is work for.
        int missing = call.helpers - (started_ - sleeping);
        if (missing >= sleeping) {
            if (sleeping > 0) wake_.notify_all();
        } else {
            for (; missing > 0; --missing) wake_.notify_one();
        }
        call.work(0);
        // No worker may begin on it from here on; those that are in it finish their chunk.
        call_.store(nullptr, std::memory_order_seq_cst);
        auto all_left = [this] { return inside_.load(std::memory_order_seq_cst) == 0; };
        if (!spin_until(all_left)) {
            std::unique_lock<std::mutex> lock(mutex_);
            done_.wait(lock, all_left);
        }
        busy_.store(false, std::memory_order_release);
        return true;
    }

  private:
    // Only while busy_ is ours.
    void grow(int helpers) {
        if (started_ >= helpers) return;
        const SignalsBlocked blocked;
        while (started_ < helpers && started_ < MOST - 1) {
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::exception&) {
                return;  // the system gives no more: those there are do
            }
            ++started_;
        }
    }

    [[noreturn]] void serve() noexcept {
        uint64_t seen = 0;
        bool spare = false;  // more threads were started than are wanted now: one that has no place does not spin
        for (;;) {
            auto fresh = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
            if (spare || !spin_until(fresh)) {
                std::unique_lock<std::mutex> lock(mutex_);
                ++asleep_;
                wake_.wait(lock, fresh);
                --asleep_;
            }
            seen = epoch_.load(std::memory_order_acquire);
            // First say that we are inside, then look whether there is something: the caller does it the other way
            // round, so that one of us sees the other. What is found may be a later call than `seen`; it is whole, too.
            inside_.fetch_add(1, std::memory_order_seq_cst);
            Call* call = call_.load(std::memory_order_seq_cst);
            if (call != nullptr) {
                const int number = call->joined.fetch_add(1, std::memory_order_relaxed) + 1;
                spare = number >= threads();
                if (number <= call->helpers) {
                    const Within within;
                    call->work(number);
                }
            }
            if (inside_.fetch_sub(1, std::memory_order_seq_cst) == 1) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    std::atomic<bool> busy_{false};
    std::atomic<Call*> call_{nullptr};
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int> inside_{0};
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    int asleep_ = 0;   // under mutex_
    int started_ = 0;  // under busy_
};

// Never destroyed: workers may be asleep in it when the process ends.
std::atomic<Pool*> the_pool{nullptr};
std::atomic<int> wanted{1};

// A child of fork has no workers, and its copy of the pool may have been in the middle of anything: it gets a new one.
void begin_anew() {
    the_pool.store(nullptr, std::memory_order_relaxed);
    Within::is() = false;
}

Pool& pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    // Before there is a pool to be forked. Said twice, it does the same twice.
    static std::atomic<bool> told{false};
    if (!told.load()) {
        pthread_atfork(nullptr, nullptr, begin_anew);
        told.store(true);
    }
    Pool* made = new Pool;
    if (the_pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
    delete made;
    return *found;
}

struct Memory {
    void* at[SCRATCHES] = {};
    int64_t size[SCRATCHES] = {};
    ~Memory() {
        for (void* p : at) std::free(p);
    }
};

}  // namespace

void run_parallel(int64_t count, int64_t grain, Body body, void* context) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    const int64_t chunks = (count + grain - 1) / grain;
    const int helpers = int(std::min<int64_t>(chunks, threads())) - 1;
    if (helpers > 0 && !Within::is()) {
        Call call{body, context, count, grain, helpers};
        const Within within;
        if (pool().run(call)) {
            if (call.failed.load()) std::rethrow_exception(call.wrong);
            return;
        }
    }
    body(context, 0, count, 0);
}

void set_threads(int count) { wanted.store(count < 1 ? 1 : count > MOST ? MOST : count, std::memory_order_relaxed); }

int threads() { return wanted.load(std::memory_order_relaxed); }

void* scratch(Scratch slot, int64_t bytes) {
    static thread_local Memory memory;
    if (memory.size[slot] < bytes) {
        std::free(memory.at[slot]);
        const int64_t size = (bytes + 4095) / 4096 * 4096;
        memory.at[slot] = std::aligned_alloc(64, size_t(size));
        memory.size[slot] = memory.at[slot] == nullptr ? 0 : size;
        if (memory.at[slot] == nullptr) throw std::bad_alloc();
    }
    return memory.at[slot];
}

}  // namespace of

extern "C" {
void of_set_threads(int32_t count) { of::set_threads(count); }
int32_t of_threads(void) { return of::threads(); }
}
