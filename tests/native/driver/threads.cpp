// The pool of threads, alone: for the sanitizer of threads too, under which nothing forks.
#include "driver.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pool.hpp"

namespace {

void sleep_ms(int64_t count) { std::this_thread::sleep_for(std::chrono::milliseconds(count)); }

// Whether every item of a call was given out once.
void covered(int64_t count, int64_t grain) {
    std::vector<int> seen(size_t(count), 0);
    of::parallel(count, grain, [&](int64_t begin, int64_t end, int thread) {
        CHECK(thread >= 0 && thread < 256);
        for (int64_t i = begin; i < end; ++i) ++seen[size_t(i)];
    });
    for (int each : seen) CHECK(each == 1);
}

void every_item_once() {
    for (int threads : {0, 1, 2, 3, 7, -5, 2}) {
        of::set_threads(threads);
        CHECK(of::threads() >= 1);
        for (int64_t count : {0, 1, 2, 3, 17, 1000})
            for (int64_t grain : {0, 1, 3, 5000}) covered(count, grain);
    }
}

void many_short_calls() {
    of::set_threads(4);
    for (int i = 0; i < 20000; ++i) covered(5, 1);
}

// Workers fall asleep after 50 microseconds: the wake-ups are those that could be lost.
void calls_with_pauses() {
    of::set_threads(3);
    for (int i = 0; i < 1500; ++i) {
        covered(6, 1);
        std::this_thread::sleep_for(std::chrono::microseconds(20 + draw() % 150));
    }
}

void numbers_of_threads_are_their_own() {
    of::set_threads(4);
    for (int i = 0; i < 300; ++i) {
        std::atomic<int> busy[4] = {};
        of::parallel(40, 1, [&](int64_t, int64_t, int thread) {
            CHECK(thread < 4 && busy[thread].fetch_add(1) == 0);
            busy[thread].fetch_sub(1);
        });
    }
}

void within_a_call() {
    of::set_threads(4);
    for (int i = 0; i < 300; ++i) {
        std::atomic<int64_t> sum{0};
        of::parallel(8, 1, [&](int64_t begin, int64_t end, int) {
            for (int64_t each = begin; each < end; ++each)
                of::parallel(10, 3, [&](int64_t first, int64_t last, int) { sum += last - first; });
        });
        CHECK(sum == 80);
    }
}

void from_two_threads_at_once() {
    of::set_threads(3);
    std::vector<std::thread> callers;
    for (int n = 0; n < 3; ++n)
        callers.emplace_back([] {
            for (int i = 0; i < 1500; ++i) covered(9, 2);
        });
    for (int i = 0; i < 500; ++i) of::set_threads(1 + i % 5), covered(9, 2);
    for (std::thread& each : callers) each.join();
}

void what_is_thrown_arrives() {
    of::set_threads(4);
    for (int i = 0; i < 600; ++i) {
        bool caught = false;
        try {
            of::parallel(64, 1, [&](int64_t begin, int64_t, int) {
                if (begin == i % 64) throw std::runtime_error("a chunk fails");
            });
        } catch (const std::runtime_error& wrong) {
            caught = std::strcmp(wrong.what(), "a chunk fails") == 0;
        }
        CHECK(caught);
        covered(10, 1);
    }
    // By all at once, so that workers do as well.
    for (int i = 0; i < 200; ++i) {
        std::atomic<int> thrown{0};
        try {
            of::parallel(4, 1, [&](int64_t, int64_t, int) {
                ++thrown;
                sleep_ms(1);
                throw std::bad_alloc();
            });
            CHECK(false);
        } catch (const std::bad_alloc&) {
            CHECK(thrown >= 1);
        }
    }
    covered(100, 1);
}

std::atomic<bool> handled_elsewhere{false};
pthread_t main_thread;

void signals_are_not_for_workers() {
    main_thread = pthread_self();
    struct sigaction action {};
    action.sa_handler = [](int) {
        if (!pthread_equal(pthread_self(), main_thread)) handled_elsewhere = true;
    };
    sigaction(SIGUSR1, &action, nullptr);
    of::set_threads(6);
    covered(50, 1);
    sigset_t mask, before;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    // While the main thread does not take it, no worker may; who called keeps its own mask.
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    CHECK(sigismember(&before, SIGUSR1) == 0);
    kill(getpid(), SIGUSR1);
    covered(50, 1);
    sleep_ms(20);
    CHECK(!handled_elsewhere);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void scratch_is_aligned_and_grows() {
    of::set_threads(3);
    of::parallel(6, 1, [&](int64_t begin, int64_t, int) {
        for (int64_t size : {int64_t(1), 100 + begin * 5000, int64_t(70000), int64_t(3)}) {
            char* at = static_cast<char*>(of::scratch(of::OWN_ROWS, size));
            char* other = static_cast<char*>(of::scratch(of::OWN_SUMS, size));
            CHECK(uintptr_t(at) % 64 == 0 && uintptr_t(other) % 64 == 0 && at != other);
            std::memset(at, 1, size_t(size));
            std::memset(other, 2, size_t(size));
            CHECK(at[0] == 1);
        }
    });
}

#ifndef NOTHING_FORKS
// Children of a thread that forks while another is in the middle of calls: they compute, with threads of their own.
void forks_in_the_middle() {
    of::set_threads(3);
    covered(200, 1);  // its workers are there before anything forks
    std::atomic<bool> over{false};
    std::atomic<int64_t> done{0};
    // It takes no memory: a fork while the address sanitizer's allocator is locked leaves it locked in the child, where
    // no thread can begin (GCC before 14; three runs of a hundred on a busy machine).
    std::thread busy([&] {
        while (!over) of::parallel(200, 1, [&](int64_t, int64_t, int) { done.fetch_add(1, std::memory_order_relaxed); });
    });
    while (done == 0) sleep_ms(1);
    for (int i = 0; i < 20; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            for (int n = 0; n < 20; ++n) covered(100, 1);
            std::atomic<int> others{0};
            while (others == 0) of::parallel(3, 1, [&](int64_t, int64_t, int thread) { others += thread > 0, sleep_ms(5); });
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    over = true;
    busy.join();
}
#endif

const Case CASES[] = {
    {"every item once", every_item_once},
    {"many short calls", many_short_calls},
    {"calls with pauses", calls_with_pauses},
    {"numbers of threads are their own", numbers_of_threads_are_their_own},
    {"within a call", within_a_call},
    {"from two threads at once", from_two_threads_at_once},
    {"what is thrown arrives", what_is_thrown_arrives},
    {"signals are not for workers", signals_are_not_for_workers},
    {"scratch is aligned and grows", scratch_is_aligned_and_grows},
#ifndef NOTHING_FORKS
    {"forks in the middle", forks_in_the_middle},
#endif
};

}  // namespace

int main(int count, char** names) {
    alarm(240);  // what hangs, fails
    return run_all(CASES, count, names);  // the workers sleep when the program ends
}
