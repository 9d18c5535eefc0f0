// Threads of our own. They split outputs, rows or heads, never a sum: what is computed does not depend on them.
#pragma once

#include <cstdint>
#include <type_traits>

namespace of {

// What one chunk is given: the first item and one past the last, and the number of the thread (0 is the caller's).
using Body = void (*)(void* context, int64_t begin, int64_t end, int thread);

// Runs `body` over 0 .. count in chunks of at most `grain` items, and returns when all are done. The caller takes part.
// A call from within a call, or while another thread's call runs, computes everything itself. What `body` throws, the
// caller gets: the first of it, when no thread is in the call any more; chunks that were not begun are left out.
void run_parallel(int64_t count, int64_t grain, Body body, void* context);

template <class F>
void parallel(int64_t count, int64_t grain, F&& body) {
    using Bare = std::remove_reference_t<F>;
    run_parallel(
        count, grain,
        [](void* context, int64_t begin, int64_t end, int thread) {
            (*static_cast<Bare*>(context))(begin, end, thread);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
}

// How many threads take part, the caller included; at least 1.
void set_threads(int count);
int threads();

// Memory of the calling thread, of at least so many bytes, at a multiple of 64; kept until the thread ends. What lay in
// it before is lost when it grows. Different slots are different memory.
enum Scratch { OWN_ROWS, OWN_PANEL, OWN_SUMS, OWN_KEYS, OWN_VALUES, OWN_MORE, SCRATCHES };
void* scratch(Scratch slot, int64_t bytes);

}  // namespace of
