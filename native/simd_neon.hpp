// Sixteen lanes in four registers of NEON. Included by simd.hpp.
#pragma once

namespace of {

struct F32 { float32x4_t v[4]; };
struct I32 { int32x4_t v[4]; };
// Sixteen lanes of two numbers of 16 bits, apart: products are added to lanes without more moves.
struct Pairs { int16x8_t even[2], odd[2]; };

#define OF_FOUR(type, expression) type r; for (int i = 0; i < 4; ++i) r.v[i] = (expression); return r

OF_INLINE F32 all(float x) { OF_FOUR(F32, vdupq_n_f32(x)); }
OF_INLINE F32 zero() { return all(0.0f); }
OF_INLINE F32 load(const float* p) { OF_FOUR(F32, vld1q_f32(p + 4 * i)); }
OF_INLINE void store(float* p, F32 x) { for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]); }
OF_INLINE F32 load_some(const float* p, int n) {
    float some[LANES] = {};
    std::memcpy(some, p, size_t(n < 0 ? 0 : n < LANES ? n : LANES) * 4);
    return load(some);
}
OF_INLINE void store_some(float* p, F32 x, int n) {
    float some[LANES];
    store(some, x);
    std::memcpy(p, some, size_t(n < 0 ? 0 : n < LANES ? n : LANES) * 4);
}
OF_INLINE F32 fma(F32 a, F32 b, F32 c) { OF_FOUR(F32, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
OF_INLINE F32 operator+(F32 a, F32 b) { OF_FOUR(F32, vaddq_f32(a.v[i], b.v[i])); }
OF_INLINE F32 operator-(F32 a, F32 b) { OF_FOUR(F32, vsubq_f32(a.v[i], b.v[i])); }
OF_INLINE F32 operator*(F32 a, F32 b) { OF_FOUR(F32, vmulq_f32(a.v[i], b.v[i])); }
OF_INLINE F32 operator/(F32 a, F32 b) { OF_FOUR(F32, vdivq_f32(a.v[i], b.v[i])); }
// b where either is no number, as elsewhere: not what vmaxq_f32 does.
OF_INLINE F32 max(F32 a, F32 b) { OF_FOUR(F32, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
OF_INLINE F32 min(F32 a, F32 b) { OF_FOUR(F32, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
OF_INLINE F32 sqrt(F32 a) { OF_FOUR(F32, vsqrtq_f32(a.v[i])); }
OF_INLINE F32 rounded(F32 a) { OF_FOUR(F32, vrndnq_f32(a.v[i])); }
// Out of range and no number become the least of all integers, as elsewhere.
OF_INLINE int32x4_t nearest(float32x4_t x) {
    return vbslq_s32(vcaltq_f32(x, vdupq_n_f32(2147483648.0f)), vcvtnq_s32_f32(x), vdupq_n_s32(INT32_MIN));
}
OF_INLINE I32 to_int(F32 a) { OF_FOUR(I32, nearest(a.v[i])); }
OF_INLINE F32 to_float(I32 a) { OF_FOUR(F32, vcvtq_f32_s32(a.v[i])); }
OF_INLINE F32 as_float(I32 a) { OF_FOUR(F32, vreinterpretq_f32_s32(a.v[i])); }
OF_INLINE I32 as_int(F32 a) { OF_FOUR(I32, vreinterpretq_s32_f32(a.v[i])); }
OF_INLINE I32 all_ints(int32_t x) { OF_FOUR(I32, vdupq_n_s32(x)); }
OF_INLINE I32 no_ints() { return all_ints(0); }
OF_INLINE I32 operator+(I32 a, I32 b) { OF_FOUR(I32, vaddq_s32(a.v[i], b.v[i])); }
OF_INLINE I32 operator-(I32 a, I32 b) { OF_FOUR(I32, vsubq_s32(a.v[i], b.v[i])); }
OF_INLINE I32 operator&(I32 a, I32 b) { OF_FOUR(I32, vandq_s32(a.v[i], b.v[i])); }
OF_INLINE I32 operator|(I32 a, I32 b) { OF_FOUR(I32, vorrq_s32(a.v[i], b.v[i])); }
OF_INLINE I32 max(I32 a, I32 b) { OF_FOUR(I32, vmaxq_s32(a.v[i], b.v[i])); }
template <int N> OF_INLINE int32x4_t moved_right(int32x4_t x) {
    if constexpr (N == 0) return x;
    else return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N));
}
template <int N> OF_INLINE I32 shift_left(I32 a) { OF_FOUR(I32, vshlq_n_s32(a.v[i], N)); }
template <int N> OF_INLINE I32 shift_right(I32 a) { OF_FOUR(I32, moved_right<N>(a.v[i])); }
OF_INLINE F32 where_less(F32 a, F32 b, F32 yes, F32 no) {
    OF_FOUR(F32, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]));
}
OF_INLINE F32 where_number(F32 x, F32 yes, F32 no) {
    OF_FOUR(F32, vbslq_f32(vceqq_f32(x.v[i], x.v[i]), yes.v[i], no.v[i]));
}
OF_INLINE F32 load_bf16(const uint16_t* p) {
    OF_FOUR(F32, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
OF_INLINE F32 load_f16(const uint16_t* p) {
    OF_FOUR(F32, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
OF_INLINE void store_f16(uint16_t* p, F32 x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
OF_INLINE I32 load_ints(const void* p) { OF_FOUR(I32, vld1q_s32(static_cast<const int32_t*>(p) + 4 * i)); }
OF_INLINE void store_ints(void* p, I32 x) {
    for (int i = 0; i < 4; ++i) vst1q_s32(static_cast<int32_t*>(p) + 4 * i, x.v[i]);
}
OF_INLINE void store_shorts(int16_t* p, I32 x) { for (int i = 0; i < 4; ++i) vst1_s16(p + 4 * i, vmovn_s32(x.v[i])); }
OF_INLINE void store_halves(uint16_t* p, I32 x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_s16(vmovn_s32(x.v[i])));
}
OF_INLINE Pairs load_pairs(const void* p) {
    const int16_t* at = static_cast<const int16_t*>(p);
    const int16x8x2_t low = vld2q_s16(at), high = vld2q_s16(at + LANES);
    return {{low.val[0], high.val[0]}, {low.val[1], high.val[1]}};
}
OF_INLINE void store_pairs(void* p, Pairs x) {
    int16_t* at = static_cast<int16_t*>(p);
    vst2q_s16(at, {{x.even[0], x.odd[0]}});
    vst2q_s16(at + LANES, {{x.even[1], x.odd[1]}});
}
OF_INLINE Pairs all_pairs(int32_t pair) {
    const int16x8_t even = vdupq_n_s16(int16_t(pair)), odd = vdupq_n_s16(int16_t(pair >> 16));
    return {{even, even}, {odd, odd}};
}
OF_INLINE Pairs load_bytes(const int8_t* p) {
    const int8x16x2_t both = vld2q_s8(p);
    return {{vmovl_s8(vget_low_s8(both.val[0])), vmovl_high_s8(both.val[0])},
            {vmovl_s8(vget_low_s8(both.val[1])), vmovl_high_s8(both.val[1])}};
}
OF_INLINE I32 madd(Pairs a, Pairs b, I32 c) {
    for (int i = 0; i < 2; ++i) {
        c.v[2 * i] = vmlal_s16(c.v[2 * i], vget_low_s16(a.even[i]), vget_low_s16(b.even[i]));
        c.v[2 * i] = vmlal_s16(c.v[2 * i], vget_low_s16(a.odd[i]), vget_low_s16(b.odd[i]));
        c.v[2 * i + 1] = vmlal_high_s16(c.v[2 * i + 1], a.even[i], b.even[i]);
        c.v[2 * i + 1] = vmlal_high_s16(c.v[2 * i + 1], a.odd[i], b.odd[i]);
    }
    return c;
}
// The J-th nibble of each of the 32 numbers of 16 bits.
template <int J> OF_INLINE int16x8_t nibbles(int16x8_t x) {
    uint16x8_t v = vreinterpretq_u16_s16(x);
    if constexpr (J > 0) v = vshrq_n_u16(v, 4 * J);
    return vreinterpretq_s16_u16(J == 3 ? v : vandq_u16(v, vdupq_n_u16(15)));
}
template <int J> OF_INLINE Pairs nibble(Pairs v) {
    return {{nibbles<J>(v.even[0]), nibbles<J>(v.even[1])}, {nibbles<J>(v.odd[0]), nibbles<J>(v.odd[1])}};
}
struct Table { uint8x16x2_t v; };  // what sixteen codes mean
OF_INLINE Table table_of(const int16_t* t) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(t);
    return {{{vld1q_u8(bytes), vld1q_u8(bytes + 16)}}};
}
OF_INLINE int16x8_t meant(Table t, int16x8_t codes) {  // a code's bytes are 2 c and 2 c + 1
    const uint16x8_t at = vmlaq_n_u16(vdupq_n_u16(0x0100), vreinterpretq_u16_s16(codes), 0x0202);
    return vreinterpretq_s16_u8(vqtbl2q_u8(t.v, vreinterpretq_u8_u16(at)));
}
template <int J> OF_INLINE Pairs coded(Table t, Pairs v) {  // what the J-th nibbles mean
    const Pairs n = nibble<J>(v);
    return {{meant(t, n.even[0]), meant(t, n.even[1])}, {meant(t, n.odd[0]), meant(t, n.odd[1])}};
}
OF_INLINE F32 look_up(const float* t, I32 codes) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(t);
    const uint8x16x4_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
    F32 r;
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t at = vmlaq_n_u32(vdupq_n_u32(0x03020100), vreinterpretq_u32_s32(codes.v[i]), 0x04040404);
        r.v[i] = vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(at)));
    }
    return r;
}
OF_INLINE F32 widened_f16(uint16x8_t low, uint16x8_t high) {
    const float16x8_t a = vreinterpretq_f16_u16(low), b = vreinterpretq_f16_u16(high);
    return {{vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)}};
}
OF_INLINE F32 load_e5m2(const uint8_t* p) {
    const uint8x16_t v = vld1q_u8(p);
    return widened_f16(vshll_n_u8(vget_low_u8(v), 8), vshll_high_n_u8(v, 8));
}
// fp8 e4m3 has the layout of float16 but for an exponent that is 8 smaller and no infinities: all ones are no number.
OF_INLINE uint16x8_t e4m3_as_f16(int16x8_t with_sign) {
    const uint16x8_t v = vshlq_n_u16(vreinterpretq_u16_s16(with_sign), 7), rest = vdupq_n_u16(0x3f80);
    const uint16x8_t none = vceqq_u16(vandq_u16(v, rest), rest);
    return vorrq_u16(vandq_u16(v, vdupq_n_u16(0xbf80)), none);
}
OF_INLINE F32 load_e4m3(const uint8_t* p) {
    const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(p));
    return widened_f16(e4m3_as_f16(vmovl_s8(vget_low_s8(v))), e4m3_as_f16(vmovl_high_s8(v))) * all(256.0f);
}
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define OF_BF16_DOTS 1
struct Halves { bfloat16x8_t v[4]; };  // sixteen pairs of bf16
OF_INLINE Halves load_halves(const void* p) {
    OF_FOUR(Halves, vreinterpretq_bf16_u16(vld1q_u16(static_cast<const uint16_t*>(p) + 8 * i)));
}
OF_INLINE Halves all_halves(int32_t pair) { OF_FOUR(Halves, vreinterpretq_bf16_s32(vdupq_n_s32(pair))); }
OF_INLINE F32 dots(Halves a, Halves b, F32 c) { OF_FOUR(F32, vbfdotq_f32(c.v[i], a.v[i], b.v[i])); }
#endif
// Each lane with its neighbour: 0 and 1, 2 and 3, and so on.
OF_INLINE F32 neighbours_swapped(F32 x) { OF_FOUR(F32, vrev64q_f32(x.v[i])); }
OF_INLINE float sum(F32 a) {
    const float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t h = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
OF_INLINE float top(F32 a) {
    const F32 high = {{a.v[2], a.v[3], a.v[2], a.v[3]}}, m = max(a, high);
    return vmaxnmvq_f32(vmaxnmq_f32(m.v[0], m.v[1]));
}

}  // namespace of
