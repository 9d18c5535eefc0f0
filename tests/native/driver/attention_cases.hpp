// Attention over pages, what keeps keys and values there, and a program with experts.
#pragma once

#include <algorithm>
#include <vector>

#include "driver.hpp"

// Keys or values of all heads, in slots; what lies in slots of nobody is no number.
struct Kept {
    Kept(int32_t kind, int64_t heads, int64_t slots, int64_t width)
        : bytes(heads * slots * width * size(kind)), scales(kind == OF_I8 ? heads * slots : 0) {
        std::memset(bytes.at(), 0xff, size_t(bytes.count()));
        for (int64_t i = 0; i < scales.count(); ++i) scales[i] = NAN;
        c = {bytes.at(), kind == OF_I8 ? scales.at() : nullptr, heads, width, slots * width, width, slots, kind, 0};
    }
    static int64_t size(int32_t kind) { return kind == OF_I8 ? 1 : Rows::size(kind); }
    double get(int64_t head, int64_t slot, int64_t i) {
        const int64_t at = head * c.head_stride + slot * c.slot_stride + i;
        if (c.kind == OF_I8) return double(int8_t(bytes[at])) * scales[head * c.scale_stride + slot];
        if (c.kind == OF_F32) {
            float x;
            std::memcpy(&x, bytes.at() + at * 4, 4);
            return x;
        }
        uint16_t bits;
        std::memcpy(&bits, bytes.at() + at * 2, 2);
        return c.kind == OF_BF16 ? of::from_bf16(bits) : of::from_f16(bits);
    }
    Exact<uint8_t> bytes;
    Exact<float> scales;
    of_state c;
};

// A row of a step: its last `queries` tokens see what came before, as far as its window goes.
struct Line {
    int64_t queries, keys, window, first_key;
    std::vector<int64_t> slots;  // of the keys from first_key on
};

struct Asked {
    int32_t key_kind, value_kind;
    int64_t groups, each, width, out, page;
    float cap;
    bool sinks, bias;
};

inline std::vector<Line> lines(int64_t page, int64_t& slots) {
    std::vector<Line> made = {{1, 1, 0, 0, {}}, {3, 150, 0, 0, {}}, {1, 130, 40, 80, {}}, {70, 70, 20, 0, {}}, {0, 5, 0, 0, {}}};
    // The pages of rows take turns, so that none has two neighbouring ones; a slot between pages is nobody's.
    slots = 1;
    for (int64_t begin = 0; begin < 150; begin += page)
        for (Line& line : made) {
            const int64_t there = line.keys - line.first_key;
            for (int64_t j = begin; j < std::min(begin + page, there); ++j) line.slots.push_back(slots++);
            if (begin < there) ++slots;
        }
    --slots;  // the last slot is the last key's
    return made;
}

inline void keep_line(Kept& state, const Line& line) {
    const int64_t count = int64_t(line.slots.size());
    Rows x(OF_F32, count + 1, state.c.heads * state.c.width, 1);
    Exact<int64_t> to(count + 1);
    for (int64_t j = 0; j < count; ++j) to[j] = line.slots[size_t(j)];
    to[count] = -1;  // nowhere
    CHECK(of_keep(&state.c, &x.fill().c, to.at()) == OF_OK);
    for (int64_t j = 0; j < count; ++j)
        for (int64_t i = 0; i < state.c.heads * state.c.width; ++i) {
            const double off = state.get(i / state.c.width, to[j], i % state.c.width) - x.get(j, i);
            CHECK(std::fabs(off) <= (state.c.kind == OF_F32 ? 0 : 0.009));
        }
}

inline void attended(const Asked& how) {
    int64_t slots = 0, tokens = 0;
    const std::vector<Line> rows = lines(how.page, slots);
    Kept keys(how.key_kind, how.groups, slots, how.width), values(how.value_kind, how.groups, slots, how.out);
    std::vector<of_range> found;
    Exact<of_segment> segments(int64_t(rows.size()));
    for (size_t n = 0; n < rows.size(); ++n) {
        keep_line(keys, rows[n]), keep_line(values, rows[n]);
        const int64_t first = int64_t(found.size());
        for (size_t j = 0; j < rows[n].slots.size(); ++j) {
            const int64_t slot = rows[n].slots[j];
            if (j > 0 && found.back().stop == slot) ++found.back().stop;
            else found.push_back({slot, slot + 1});
        }
        segments[int64_t(n)] = {tokens, rows[n].queries, first, int64_t(found.size()) - first, rows[n].first_key};
        tokens += rows[n].queries;
    }
    Exact<of_range> ranges(int64_t(found.size()));
    std::copy(found.begin(), found.end(), ranges.at());
    const int64_t heads = how.groups * how.each, bias_width = 40, offset = 37;
    Exact<int32_t> low(tokens), high(tokens), places(tokens);
    for (size_t n = 0; n < rows.size(); ++n)
        for (int64_t t = 0; t < rows[n].queries; ++t) {
            const int64_t token = segments[int64_t(n)].query + t, place = rows[n].keys - rows[n].queries + t;
            places[token] = int32_t(place), high[token] = int32_t(place + 1);
            low[token] = int32_t(std::max(rows[n].first_key, rows[n].window ? place + 1 - rows[n].window : 0));
        }
    high[2] = low[2];  // one that sees nothing
    Rows q(OF_F32, tokens, heads * how.width, 3), out(OF_F32, tokens, heads * how.out, 1);
    Exact<float> sinks(heads), bias(heads * bias_width);
    for (int64_t i = 0; i < heads; ++i) sinks[i] = drawn();
    for (int64_t i = 0; i < heads * bias_width; ++i) bias[i] = drawn();
    const of_attention call = {
        static_cast<const float*>(q.fill().c.at), q.c.stride, how.width, static_cast<float*>(out.c.at), out.c.stride,
        how.out, &keys.c, &values.c, heads, segments.at(), segments.count(), ranges.at(), low.at(), high.at(),
        how.sinks ? sinks.at() : nullptr, how.bias ? bias.at() : nullptr, how.bias ? places.at() : nullptr,
        how.bias ? bias_width : 0, how.bias ? offset : 0, 0.3f, how.cap};
    CHECK(of_attend(&call) == OF_OK);
    for (size_t n = 0; n < rows.size(); ++n)
        for (int64_t token = segments[int64_t(n)].query; token < segments[int64_t(n)].query + rows[n].queries; ++token)
            for (int64_t head = 0; head < heads; ++head) {
                const int64_t group = head / how.each;
                std::vector<double> sum(size_t(how.out), 0.0);
                double weight = how.sinks && low[token] < high[token] ? std::exp(double(sinks[head])) : 0;
                for (int64_t j = low[token]; j < high[token]; ++j) {
                    const int64_t slot = rows[n].slots[size_t(j - rows[n].first_key)];
                    double score = 0;
                    for (int64_t i = 0; i < how.width; ++i)
                        score += q.get(token, head * how.width + i) * keys.get(group, slot, i) * 0.3f;
                    if (how.cap > 0) score = how.cap * std::tanh(score / how.cap);
                    const int64_t entry = std::clamp<int64_t>(j - places[token] + offset, 0, bias_width - 1);
                    if (how.bias) score += bias[head * bias_width + entry];
                    weight += std::exp(score);
                    for (int64_t i = 0; i < how.out; ++i) sum[size_t(i)] += std::exp(score) * values.get(group, slot, i);
                }
                for (int64_t i = 0; i < how.out; ++i) {
                    const double right = weight == 0 ? 0 : sum[size_t(i)] / weight;
                    CHECK(std::fabs(out.get(token, head * how.out + i) - right) <= 1e-4);
                }
            }
}

inline void attention_over_pages() {
    for (int32_t kind : {OF_F32, OF_BF16, OF_F16, OF_I8})
        for (int64_t page : {1, 7, 64, 200}) {
            attended({kind, kind, 2, 2, 16, 16, page, 0, false, false});
            attended({kind, kind, 1, 3, 20, 20, page, 2.0f, true, page % 2 == 1});
            attended({kind, page == 7 ? OF_F32 : kind, 3, 1, 33, 18, page, 0, page == 1, true});
        }
    attended({OF_BF16, OF_BF16, 1, 8, 128, 128, 16, 0, false, false});
}

// A norm, a router, experts, and what was there before added; for some of the rows only. Where the experts are all
// alike, which of them a row goes through is no matter.
inline void a_program_with_experts() {
    constexpr int32_t D = 24, H = 20, EXPERTS = 5, TOP = 2;
    constexpr int64_t ROWS = 7, WANTED = 3;
    Rows gate_up(OF_F32, 2 * H, D), down(OF_F32, D, H), router(OF_F32, EXPERTS, D);
    Exact<uint8_t> a(of_packed_bytes(OF_F32, 2 * H, D)), b(of_packed_bytes(OF_F32, D, H)), r(of_packed_bytes(OF_F32, EXPERTS, D));
    CHECK(of_pack(&gate_up.fill().c, OF_F32, a.at()) == OF_OK && of_pack(&down.fill().c, OF_F32, b.at()) == OF_OK);
    CHECK(of_pack(&router.fill().c, OF_F32, r.at()) == OF_OK);
    const of_matrix up{a.at(), nullptr, nullptr, nullptr, 2 * H, D, D, OF_F32, OF_F32};
    const of_matrix back{b.at(), nullptr, nullptr, nullptr, D, H, H, OF_F32, OF_F32};
    const of_matrix score{r.at(), nullptr, nullptr, nullptr, EXPERTS, D, D, OF_F32, OF_F32};
    Exact<of_product> ups(EXPERTS), downs(EXPERTS), scores(1);
    for (int i = 0; i < EXPERTS; ++i) ups[i] = {&up, nullptr, 0}, downs[i] = {&back, nullptr, 0};
    scores[0] = {&score, nullptr, 0};
    const of_routing routing{nullptr, 0, TOP, 1, 1, 1, 1, 0.0f, 1.0f};
    const of_experts experts{ups.at(), downs.at(), EXPERTS, H, OF_SILU, 0, 0.0f, 0.0f};
    Exact<float> weight(D);
    for (int i = 0; i < D; ++i) weight[i] = 1 + drawn() / 4;
    // Buffers: 0 the input, 1 normed, 2 scores, 3 shares, 4 experts, 5 made, 6 of the wanted.
    Exact<of_buffer> buffers(7);
    Exact<of_storage> storages(7);
    const int32_t widths[] = {D, D, EXPERTS, TOP, TOP, D, D};
    int64_t bytes = 0;
    for (int i = 0; i < 7; ++i) {
        buffers[i] = {widths[i], i}, storages[i] = {widths[i], i == 6};
        bytes = (bytes + 63) / 64 * 64 + (i == 6 ? WANTED : ROWS) * widths[i] * 4;
    }
    Exact<uint8_t> arena(bytes);
    const auto place = [&](int32_t n) { return of_place{n, 0, 1, widths[n], widths[n], 0}; };
    Exact<of_op> ops(6);
    const of_place none{};
    ops[0] = {OF_OP_NORM, 0, place(0), none, none, place(1), weight.at(), nullptr, 0, -1, 1e-5f, 0};
    ops[1] = {OF_OP_PRODUCTS, 0, place(1), none, none, place(2), scores.at(), nullptr, 1, -1, 0, 0};
    ops[2] = {OF_OP_ROUTE, 0, place(2), place(3), place(4), none, &routing, nullptr, 0, -1, 0, 0};
    ops[3] = {OF_OP_EXPERTS, 0, place(1), place(3), place(4), place(5), &experts, nullptr, 0, -1, 0, 0};
    ops[4] = {OF_OP_ADD, 0, place(0), place(5), none, place(5), nullptr, nullptr, 0, -1, 1.0f, 0};
    ops[5] = {OF_OP_PICK, 0, place(5), none, none, place(6), nullptr, nullptr, 0, -1, 0, 0};
    const of_program program{ops.at(), buffers.at(), storages.at(), 6, 7, 7, place(6)};
    Rows x(OF_BF16, ROWS, D, 1), out(OF_F32, WANTED, D, 2);
    Exact<int64_t> wanted(WANTED);
    wanted[0] = 6, wanted[1] = 0, wanted[2] = 3;
    of_step step{};
    step.x = x.fill().c, step.out = out.c, step.wanted = wanted.at(), step.arena = arena.at();
    CHECK(of_run(&program, &step) == OF_OK);
    for (int64_t n = 0; n < WANTED; ++n) {
        double squares = 0, normed[D], h[H];
        for (int i = 0; i < D; ++i) squares += double(x.get(wanted[n], i)) * x.get(wanted[n], i);
        for (int i = 0; i < D; ++i) normed[i] = x.get(wanted[n], i) / std::sqrt(squares / D + 1e-5) * weight[i];
        for (int j = 0; j < H; ++j) {
            double gate = 0, value = 0;
            for (int i = 0; i < D; ++i) gate += gate_up.get(j, i) * normed[i], value += gate_up.get(H + j, i) * normed[i];
            h[j] = gate / (1 + std::exp(-gate)) * value;
        }
        for (int i = 0; i < D; ++i) {
            double right = x.get(wanted[n], i), magnitude = 1;
            for (int j = 0; j < H; ++j) right += down.get(i, j) * h[j], magnitude += std::fabs(down.get(i, j) * h[j]);
            CHECK(std::fabs(out.get(n, i) - right) <= magnitude * 1e-4);
        }
    }
}
