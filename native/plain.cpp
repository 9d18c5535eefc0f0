// Attention as plain loops, until the kernels that are fast are there: theirs are used wherever they are linked too.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention.hpp"
#include "floats.hpp"

#define OF_WEAK __attribute__((weak))

namespace of {

OF_WEAK void keep(const of_state& state, const float* x, int64_t stride, const int64_t* slots, int64_t rows) {
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t h = 0; h < state.heads; ++h)
            for (int64_t i = 0; i < state.width; i += LANES) {
                char* to = static_cast<char*>(state.at) + (h * state.head_stride + slots[n] * state.slot_stride) * bytes_of(state.kind);
                write_row(to, state.kind, i, state.width, read_row(x + n * stride + h * state.width, OF_F32, i, state.width));
            }
}

namespace {
float number(const of_state& s, int64_t head, int64_t slot, int64_t i) {
    const int64_t at = head * s.head_stride + slot * s.slot_stride + i;
    if (s.kind == OF_F32) return static_cast<const float*>(s.at)[at];
    const uint16_t bits = static_cast<const uint16_t*>(s.at)[at];
    return s.kind == OF_BF16 ? from_bf16(bits) : from_f16(bits);
}

void attend_one(const of_attention& c, const of_segment& segment, int64_t token, int64_t head) {
    const of_state &keys = *c.keys, &values = *c.values;
    const int64_t group = head / (c.heads / keys.heads);
    float* out = c.out + token * c.out_stride + head * c.out_head_stride;
    std::vector<float> scores;
    std::vector<int64_t> slots;
    int64_t j = segment.first_key;
    for (int64_t r = segment.range; r < segment.range + segment.ranges; ++r)
        for (int64_t slot = c.ranges[r].first; slot < c.ranges[r].stop; ++slot, ++j) {
            if (j < c.low[token] || j >= c.high[token]) continue;
            float score = 0;
            const float* q = c.q + token * c.q_stride + head * c.q_head_stride;
            for (int64_t i = 0; i < keys.width; ++i) score = __builtin_fmaf(q[i], number(keys, group, slot, i), score);
            score *= c.scale;
            if (c.cap > 0) score = c.cap * std::tanh(score / c.cap);
            if (c.bias) {
                const int64_t place = std::min(std::max<int64_t>(j - c.places[token] + c.bias_offset, 0), c.bias_width - 1);
                score += c.bias[head * c.bias_width + place];
            }
            scores.push_back(score);
            slots.push_back(slot);
        }
    std::fill_n(out, values.width, 0.0f);
    if (scores.empty()) return;
    float most = *std::max_element(scores.begin(), scores.end());
    if (c.sinks) most = std::max(most, c.sinks[head]);
    float total = c.sinks ? std::exp(c.sinks[head] - most) : 0.0f;
    for (size_t n = 0; n < scores.size(); ++n) {
        const float share = std::exp(scores[n] - most);
        total += share;
        for (int64_t i = 0; i < values.width; ++i) out[i] = __builtin_fmaf(share, number(values, group, slots[n], i), out[i]);
    }
    for (int64_t i = 0; i < values.width; ++i) out[i] /= total;
}
}  // namespace

OF_WEAK void attend(const of_attention& call) {
    for (int64_t s = 0; s < call.segment_count; ++s) {
        const of_segment& segment = call.segments[s];
        for (int64_t t = segment.query; t < segment.query + segment.queries; ++t)
            for (int64_t head = 0; head < call.heads; ++head) attend_one(call, segment, t, head);
    }
}

}  // namespace of
