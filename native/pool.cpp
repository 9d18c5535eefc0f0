#include "pool.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
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

// One call of run_parallel. Workers hold it only between `entered` and `left`, and the caller waits for them.
struct Call {
    Body body;
    void* context;
    int64_t count, grain;
    std::atomic<int64_t> next{0};

    void work(int thread) {
        for (;;) {
            const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= count) return;
            body(context, begin, begin + grain < count ? begin + grain : count, thread);
        }
    }
};

class Pool {
  public:
    // Whether the call was run; not where another is being run.
    bool run(Call& call, int helpers) {
        if (busy_.exchange(true, std::memory_order_acquire)) return false;
        grow(helpers);
        helpers_.store(helpers < started_ ? helpers : started_, std::memory_order_relaxed);
        call_.store(&call, std::memory_order_relaxed);
        {
            // Under the lock, or a worker that is about to sleep would miss it.
            std::lock_guard<std::mutex> lock(mutex_);
            epoch_.fetch_add(1, std::memory_order_release);
        }
        if (asleep_.load(std::memory_order_relaxed)) wake_.notify_all();
        call.work(0);
        // No worker may begin on it from here on; those that are in it finish their chunk.
        call_.store(nullptr, std::memory_order_seq_cst);
        if (!spin_until([this] { return inside_.load(std::memory_order_seq_cst) == 0; })) {
            std::unique_lock<std::mutex> lock(mutex_);
            done_.wait(lock, [this] { return inside_.load(std::memory_order_seq_cst) == 0; });
        }
        busy_.store(false, std::memory_order_release);
        return true;
    }

  private:
    void grow(int helpers) {
        while (started_ < helpers && started_ < MOST - 1) {
            const int number = started_ + 1;
            try {
                std::thread([this, number] { serve(number); }).detach();
            } catch (const std::system_error&) {
                return;  // the system gives no more: those there are do
            }
            ++started_;
        }
    }

    [[noreturn]] void serve(int number) {
        uint64_t seen = 0;
        for (;;) {
            auto fresh = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
            if (!spin_until(fresh)) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.fetch_add(1, std::memory_order_relaxed);
                wake_.wait(lock, fresh);
                asleep_.fetch_sub(1, std::memory_order_relaxed);
            }
            seen = epoch_.load(std::memory_order_acquire);
            // First say that we are inside, then look whether there is something: the caller does it the other way round.
            inside_.fetch_add(1, std::memory_order_seq_cst);
            Call* call = call_.load(std::memory_order_seq_cst);
            if (call != nullptr && number <= helpers_.load(std::memory_order_relaxed)) {
                within() = true;
                call->work(number);
                within() = false;
            }
            if (inside_.fetch_sub(1, std::memory_order_seq_cst) == 1) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

  public:
    // Whether this thread is computing a chunk.
    static bool& within() {
        static thread_local bool is = false;
        return is;
    }

  private:
    std::atomic<bool> busy_{false};
    std::atomic<Call*> call_{nullptr};
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int> inside_{0}, helpers_{0}, asleep_{0};
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    int started_ = 0;
};

// Never destroyed: workers may be asleep in it when the process ends.
std::atomic<Pool*> the_pool{nullptr};
std::atomic<int> wanted{1};

// A child of fork has no workers, and its copy of the pool may have been in the middle of anything: it gets a new one.
void begin_anew() {
    the_pool.store(nullptr, std::memory_order_relaxed);
    Pool::within() = false;
}

Pool& pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    Pool* made = new Pool;
    if (the_pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) {
        static std::atomic<bool> told{false};
        if (!told.exchange(true)) pthread_atfork(nullptr, nullptr, begin_anew);
        return *made;
    }
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
    const int helpers = int(chunks < threads() ? chunks : threads()) - 1;
    if (helpers > 0 && !Pool::within()) {
        Call call{body, context, count, grain};
        Pool::within() = true;
        const bool ran = pool().run(call, helpers);
        Pool::within() = false;
        if (ran) return;
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
