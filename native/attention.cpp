// Attention as attention.hpp has it. A task is a key head and a run of a row's queries: all query heads that share the
// key head, side by side, are the rows of two products whose tiles are those of a matrix product. Blocks of keys are
// turned into columns and widened once for all of a task's rows.
#include "attention.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <new>
#include <vector>

#include "functions.hpp"
#include "pool.hpp"
#include "tiles.hpp"

namespace of {
namespace {

constexpr int64_t ROWS = 16 * TILE;          // of a task: their queries and sums stay in the second cache
constexpr int64_t WORTH_THREADS = 1 << 18;   // products that are worth waking threads for

// ---------------------------------------------------------------- a task

struct Job {
    const of_attention& call;
    const of_state& keys;
    const of_state& values;
    int64_t each;    // query heads to a key head
    int64_t panels;  // of values
};

struct Task {
    int64_t segment, head;
    int64_t query, queries;  // tokens of the step
};

// A few rows that are computed side by side.
struct Tile {
    int64_t first, rows;
    int64_t low, high;            // what one of them sees
    int64_t all_low, all_high;    // what all of them see
    float shrink[LANES];
};

// What lies where in a row's pages.
class Places {
  public:
    Places(const of_attention& call, const of_segment& segment)
        : range_(call.ranges + segment.range), end_(range_ + segment.ranges), base_(segment.first_key) {}

    // The slot of a key; asked in ascending order.
    int64_t slot(int64_t key) {
        while (range_ + 1 < end_ && key >= base_ + (range_->stop - range_->first)) {
            base_ += range_->stop - range_->first;
            ++range_;
        }
        return range_->first + (key - base_);
    }

  private:
    const of_range* range_;
    const of_range* end_;
    int64_t base_;
};

// One block of keys: where they and their values lie, and which of them the task sees.
struct Block {
    int64_t start, first, last;
    const char *key_at[BLOCK], *value_at[BLOCK];
    float key_scale[BLOCK], value_scale[BLOCK];
};

// Says that bytes will be read, of which a processor would learn too late: rows of pages are no stream.
OF_INLINE void expect(const char* at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

// Hands out pieces of a thread's memory.
struct Arena {
    char* at;
    template <class T>
    T* take(int64_t count) {
        T* found = reinterpret_cast<T*>(at);
        at += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return found;
    }
};

class Work {
  public:
    Work(const Job& job, const Task& task) : job_(job), task_(task), rows_(task.queries * job.each) {
        const int64_t width = job.keys.width, tiles = (rows_ + TILE - 1) / TILE;
        const int64_t numbers = rows_ * (width + BLOCK + job.panels * LANES + LANES + 3) + 4 * width * LANES +
                                job.panels * LANES * BLOCK;
        Arena arena{static_cast<char*>(
            scratch(OWN_KEYS, numbers * 4 + tiles * int64_t(sizeof(Tile)) + 2 * int64_t(sizeof(Block)) + 16 * 64))};
        q_ = arena.take<float>(rows_ * width);
        scores_ = arena.take<float>(rows_ * BLOCK);
        sums_ = arena.take<float>(rows_ * job.panels * LANES);
        weight_ = arena.take<float>(rows_ * LANES);
        most_ = arena.take<float>(rows_);
        low_ = arena.take<int32_t>(rows_);
        high_ = arena.take<int32_t>(rows_);
        turned_ = arena.take<float>(4 * width * LANES);
        wide_ = arena.take<float>(job.panels * LANES * BLOCK);
        now_ = arena.take<Block>(1);
        next_ = arena.take<Block>(1);
        tiles_ = arena.take<Tile>(tiles);
        tile_count_ = tiles;
    }

    void run() {
        begin();
        Places places(job_.call, job_.call.segments[task_.segment]);
        for (int64_t start = task_low_ / BLOCK * BLOCK; start < task_high_; start += BLOCK) {
            if (start <= task_low_) find(places, start, *next_);
            std::swap(now_, next_);
            block_ = start;
            score();
            for (int64_t t = 0; t < tile_count_; ++t)
                if (sees(tiles_[t])) soften(tiles_[t]);
            next_->first = next_->last = 0;
            if (start + BLOCK < task_high_) find(places, start + BLOCK, *next_);
            gather();
        }
        finish();
    }

  private:
    int64_t head_of(int64_t row) const { return task_.head * job_.each + row % job_.each; }
    int64_t token_of(int64_t row) const { return task_.query + row / job_.each; }
    bool sees(const Tile& tile) const { return tile.low < block_ + BLOCK && tile.high > block_; }
    // The part of the block that some of a tile's rows see, and whether all of them see just that.
    int64_t first_of(const Tile& tile) const { return std::max<int64_t>(tile.low - block_, 0); }
    int64_t last_of(const Tile& tile) const { return std::min<int64_t>(tile.high - block_, BLOCK); }
    bool is_even(const Tile& tile) const {
        return std::max(tile.all_low, block_) == std::max(tile.low, block_) &&
               std::min(tile.all_high, block_ + BLOCK) == std::min(tile.high, block_ + BLOCK);
    }

    void begin();
    void begin_row(int64_t row);
    void begin_tile(Tile& tile);
    void find(Places& places, int64_t start, Block& block) const;
    void score();
    void soften(Tile& tile);
    F32 with_bias(F32 score, int64_t row, int64_t first) const;
    void gather();
    void gather_straight(const Tile& tile);
    bool is_finite();
    void finish();

    const Job& job_;
    const Task& task_;
    const int64_t rows_;
    int64_t tile_count_, block_ = 0, task_low_ = 0, task_high_ = 0;
    float *q_, *scores_, *sums_, *weight_, *most_, *turned_, *wide_;
    int32_t *low_, *high_;
    Block *now_, *next_;
    Tile* tiles_;
};

void Work::begin() {
    task_low_ = INT64_MAX;
    for (int64_t t = 0; t < tile_count_; ++t) {
        tiles_[t].first = t * TILE;
        tiles_[t].rows = std::min<int64_t>(TILE, rows_ - t * TILE);
        begin_tile(tiles_[t]);
        if (tiles_[t].low >= tiles_[t].high) continue;
        task_low_ = std::min(task_low_, tiles_[t].low);
        task_high_ = std::max(task_high_, tiles_[t].high);
    }
    if (task_low_ == INT64_MAX) task_low_ = task_high_ = 0;
}

void Work::begin_tile(Tile& tile) {
    const of_attention& call = job_.call;
    const int64_t width = job_.keys.width;
    tile.low = tile.all_high = INT64_MAX;
    tile.high = tile.all_low = 0;
    for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t row = tile.first + r, token = token_of(row);
        begin_row(row);
        const float* q = call.q + token * call.q_stride + head_of(row) * call.q_head_stride;
        for (int64_t d = 0; d < width; ++d) q_[row * width + d] = q[d] * call.scale;
        tile.all_low = std::max<int64_t>(tile.all_low, low_[row]);
        tile.all_high = std::min<int64_t>(tile.all_high, high_[row]);
        if (low_[row] >= high_[row]) continue;
        tile.low = std::min<int64_t>(tile.low, low_[row]);
        tile.high = std::max<int64_t>(tile.high, high_[row]);
    }
}

void Work::begin_row(int64_t row) {
    const of_attention& call = job_.call;
    const int64_t token = token_of(row);
    low_[row] = call.low[token];
    high_[row] = call.high[token];
    if (low_[row] >= high_[row]) low_[row] = high_[row] = 0;
    float* weight = weight_ + row * LANES;
    std::fill(sums_ + row * job_.panels * LANES, sums_ + (row + 1) * job_.panels * LANES, 0.0f);
    std::fill(weight, weight + LANES, 0.0f);
    most_[row] = -FLT_MAX;  // not minus infinity, from which nothing can be taken
    if (call.sinks == nullptr || call.sinks[head_of(row)] == -INFINITY) return;
    most_[row] = call.sinks[head_of(row)];
    weight[0] = 1.0f;
}

// Where the keys and values of the block from `start` on lie.
void Work::find(Places& places, int64_t start, Block& block) const {
    const of_state &keys = job_.keys, &values = job_.values;
    const int64_t key_size = bytes_in_page(keys.kind), value_size = bytes_in_page(values.kind);
    const char* key = static_cast<const char*>(keys.at) + task_.head * keys.head_stride * key_size;
    const char* value = static_cast<const char*>(values.at) + task_.head * values.head_stride * value_size;
    block.start = start;
    block.first = std::max<int64_t>(task_low_ - start, 0);
    block.last = std::min<int64_t>(task_high_ - start, BLOCK);
    for (int64_t j = block.first; j < block.last; ++j) {
        const int64_t slot = places.slot(start + j);
        block.key_at[j] = key + slot * keys.slot_stride * key_size;
        block.value_at[j] = value + slot * values.slot_stride * value_size;
        if (keys.scales != nullptr) block.key_scale[j] = keys.scales[task_.head * keys.scale_stride + slot];
        if (values.scales != nullptr) block.value_scale[j] = values.scales[task_.head * values.scale_stride + slot];
    }
    // What nobody sees is read too, a panel being sixteen, and hidden then.
    const auto hide = [&](int64_t j) {
        block.key_at[j] = block.key_at[block.first];
        block.key_scale[j] = block.value_scale[j] = 0.0f;
    };
    for (int64_t j = 0; j < block.first; ++j) hide(j);
    for (int64_t j = block.last; j < BLOCK; ++j) hide(j);
}

void Work::score() {
    const int64_t width = job_.keys.width, value_bytes = bytes_of_row(job_.values.kind, job_.values.width);
    const int64_t most = abreast(tile_count_ > 1 ? TILE : int(rows_));
    const int64_t end = (now_->last + LANES - 1) / LANES;
    for (int64_t panel = now_->first / LANES; panel < end; panel += most) {
        const int64_t panels = std::min(most, end - panel);
        const int64_t last = std::min((panel + panels) * LANES, now_->last);
        for (int64_t j = std::max(panel * LANES, now_->first); j < last; ++j) expect(now_->value_at[j], value_bytes);
        with_page(job_.keys.kind, [&](auto page) {
            for (int64_t p = 0; p < panels; ++p)
                turn_keys<decltype(page)>(now_->key_at + (panel + p) * LANES, width, turned_ + p * width * LANES);
        });
        for (int64_t t = 0; t < tile_count_; ++t) {
            const Tile& tile = tiles_[t];
            if (tile.low >= block_ + (panel + panels) * LANES || tile.high <= block_ + panel * LANES) continue;
            float* to = scores_ + tile.first * BLOCK + panel * LANES;
            compare_rows<TILE>(tile.rows, q_ + tile.first * width, turned_, width, panels, to);
        }
    }
}

// Sixteen scores of a row, of the keys from `first` on, and what their distances add.
F32 Work::with_bias(F32 score, int64_t row, int64_t first) const {
    const of_attention& call = job_.call;
    const float* table = call.bias + head_of(row) * call.bias_width;
    const int64_t at = first - call.places[token_of(row)] + call.bias_offset;
    if (at >= 0 && at + LANES <= call.bias_width) return score + load(table + at);
    float some[LANES];
    for (int64_t i = 0; i < LANES; ++i) some[i] = table[std::min(std::max<int64_t>(at + i, 0), call.bias_width - 1)];
    return score + load(some);
}

// Scores of the block become weights, as the greatest score so far has it.
OF_APART void Work::soften(Tile& tile) {
    constexpr int PANELS = BLOCK / LANES;
    static const float counted[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const of_attention& call = job_.call;
    const bool hides = tile.all_low > block_ || tile.all_high < block_ + BLOCK;
    const F32 cap = all(call.cap), part = all(call.cap > 0 ? 1.0f / call.cap : 0.0f);
    F32 sums[TILE];
    float fall[LANES] = {};
    for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t row = tile.first + r;
        float* scores = scores_ + row * BLOCK;
        const F32 low = all(float(low_[row] - block_)), high = all(float(high_[row] - block_));
        F32 s[PANELS];
        for (int p = 0; p < PANELS; ++p) {
            s[p] = load(scores + p * LANES);
            if (job_.keys.scales != nullptr) s[p] *= load(now_->key_scale + p * LANES);
            if (call.cap > 0) s[p] = tanh(s[p] * part) * cap;
            if (call.bias != nullptr) s[p] = with_bias(s[p], row, block_ + p * LANES);
            if (!hides) continue;
            const F32 key = load(counted) + all(float(p * LANES));
            s[p] = where_less(key, high, where_less(key, low, all(-INFINITY), s[p]), all(-INFINITY));
        }
        const float greatest = top(max(max(s[0], s[1]), max(s[2], s[3])));
        const float most = greatest > most_[row] ? greatest : most_[row];
        fall[r] = most_[row] - most;
        most_[row] = most;
        for (int p = 0; p < PANELS; ++p) s[p] = falling(s[p] - all(most));
        sums[r] = (s[0] + s[1]) + (s[2] + s[3]);
        for (int p = 0; p < PANELS; ++p) {
            if (job_.values.scales != nullptr) s[p] *= load(now_->value_scale + p * LANES);
            store(scores + p * LANES, s[p]);
        }
    }
    store(tile.shrink, falling(load(fall)));
    for (int64_t r = 0; r < tile.rows; ++r) {
        float* weight = weight_ + (tile.first + r) * LANES;
        store(weight, fma(load(weight), all(tile.shrink[r]), sums[r]));
    }
}

// Whether every value of the block, widened, is finite: nothing times what is not would be no number.
bool Work::is_finite() {
    F32 nothing = zero();
    for (int64_t panel = 0; panel < job_.panels; ++panel)
        for (int64_t j = now_->first; j < now_->last; ++j)
            nothing = fma(load(wide_ + (panel * BLOCK + j) * LANES), zero(), nothing);
    for (int64_t j = 0; j < BLOCK && job_.values.scales != nullptr; j += LANES)
        nothing = fma(load(now_->value_scale + j), zero(), nothing);
    return sum(nothing) == 0.0f;
}

// A few rows, for which values are widened as they are read, while the next block's keys are fetched.
void Work::gather_straight(const Tile& tile) {
    const int64_t stride = job_.panels * LANES, step = abreast(int(tile.rows));
    const int64_t key_bytes = bytes_of_row(job_.keys.kind, job_.keys.width);
    const int64_t rounds = (job_.panels + step - 1) / step, share = (BLOCK + rounds - 1) / rounds;
    with_page(job_.values.kind, [&](auto page) {
        const Straight<decltype(page)> values{now_->value_at};
        int64_t key = next_->first;
        for (int64_t panel = 0; panel < job_.panels; panel += step) {
            for (const int64_t end = std::min(key + share, next_->last); key < end; ++key)
                expect(next_->key_at[key], key_bytes);
            weigh_rows<TILE>(
                tile.rows, scores_, values, tile.shrink, panel, std::min(panel + step, job_.panels), first_of(tile),
                last_of(tile), sums_, stride);
        }
    });
}

// The block's values, each times its weight, join the sums.
void Work::gather() {
    const int64_t stride = job_.panels * LANES, width = job_.values.width;
    bool even = true;
    for (int64_t t = 0; t < tile_count_; ++t) even = even && (!sees(tiles_[t]) || is_even(tiles_[t]));
    if (even && tile_count_ == 1 && width % LANES == 0) return gather_straight(tiles_[0]);
    with_page(job_.values.kind, [&](auto page) {
        widen_values<decltype(page)>(now_->value_at, now_->first, now_->last, width, BLOCK, wide_);
    });
    const Wide values{wide_};
    const bool apart = !even && !is_finite();
    for (int64_t panel = 0; panel < job_.panels; panel += abreast(TILE)) {
        const int64_t stop = std::min<int64_t>(panel + abreast(TILE), job_.panels);
        for (int64_t t = 0; t < tile_count_; ++t) {
            const Tile& tile = tiles_[t];
            if (!sees(tile)) continue;
            if (!apart || is_even(tile)) {
                weigh_rows<TILE>(
                    tile.rows, scores_ + tile.first * BLOCK, values, tile.shrink, panel, stop, first_of(tile),
                    last_of(tile), sums_ + tile.first * stride, stride);
                continue;
            }
            for (int64_t row = tile.first; row < tile.first + tile.rows; ++row) {
                const int64_t first = std::max<int64_t>(low_[row] - block_, 0);
                const int64_t last = std::min<int64_t>(high_[row] - block_, BLOCK);
                weigh_rows<1>(
                    1, scores_ + row * BLOCK, values, tile.shrink + (row - tile.first), panel, stop, first, last,
                    sums_ + row * stride, stride);
            }
        }
    }
}

void Work::finish() {
    const of_attention& call = job_.call;
    const int64_t width = job_.values.width;
    for (int64_t row = 0; row < rows_; ++row) {
        const float weight = sum(load(weight_ + row * LANES));
        const F32 part = all(weight == 0.0f ? 0.0f : 1.0f / weight);
        const float* sums = sums_ + row * job_.panels * LANES;
        float* out = call.out + token_of(row) * call.out_stride + head_of(row) * call.out_head_stride;
        for (int64_t i = 0; i < width; i += LANES) {
            const F32 made = load(sums + i) * part;
            if (i + LANES <= width) store(out + i, made);
            else store_some(out + i, made, int(width - i));
        }
    }
}

// Every segment in runs of queries, the last first, which see the most; one key head after another.
std::vector<Task> tasks_of(const Job& job) {
    const int64_t run = std::max<int64_t>(1, ROWS / job.each);
    std::vector<Task> tasks;
    for (int64_t s = 0; s < job.call.segment_count; ++s) {
        const of_segment& segment = job.call.segments[s];
        if (segment.queries < 1) continue;
        for (int64_t head = 0; head < job.keys.heads; ++head) {
            for (int64_t first = (segment.queries - 1) / run * run; first >= 0; first -= run)
                tasks.push_back({s, head, segment.query + first, std::min(run, segment.queries - first)});
        }
    }
    return tasks;
}

int64_t products(const Job& job) {
    int64_t pairs = 0;
    for (int64_t s = 0; s < job.call.segment_count; ++s) {
        const of_segment& segment = job.call.segments[s];
        for (int64_t t = segment.query; t < segment.query + segment.queries; ++t)
            pairs += std::max(0, job.call.high[t] - job.call.low[t]);
    }
    return pairs * job.call.heads * (job.keys.width + job.values.width);
}

}  // namespace

void attend(const of_attention& call) {
    const of_state &keys = *call.keys, &values = *call.values;
    const Job job{call, keys, values, call.heads / keys.heads, (values.width + LANES - 1) / LANES};
    const std::vector<Task> tasks = tasks_of(job);
    const int64_t count = int64_t(tasks.size());
    std::atomic<bool> failed{false};
    parallel(count, products(job) < WORTH_THREADS ? count : 1, [&](int64_t begin, int64_t end, int) {
        try {
            for (int64_t n = begin; n < end; ++n) Work(job, tasks[size_t(n)]).run();
        } catch (const std::bad_alloc&) {
            failed.store(true);  // nothing may be thrown out of another thread
        }
    });
    if (failed.load()) throw std::bad_alloc();
}

}  // namespace of

extern "C" OF_API int32_t of_keeps_nibbles(void) { return 1; }

extern "C" int32_t of_attend(const of_attention* call) {
    try {
        of::attend(*call);
        return OF_OK;
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
}
