// Sixteen lanes as plain numbers: what the others must agree with, and what the sanitizers see. Included by simd.hpp.
#pragma once

namespace of {

struct F32 { float v[LANES]; };
struct I32 { int32_t v[LANES]; };
struct Pairs { int16_t v[2 * LANES]; };

#define OF_EACH(type, expression) type r; for (int i = 0; i < LANES; ++i) r.v[i] = (expression); return r

OF_INLINE F32 zero() { OF_EACH(F32, 0.0f); }
OF_INLINE F32 all(float x) { OF_EACH(F32, x); }
OF_INLINE F32 load(const float* p) { OF_EACH(F32, p[i]); }
OF_INLINE void store(float* p, F32 x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE F32 load_some(const float* p, int n) { OF_EACH(F32, i < n ? p[i] : 0.0f); }
OF_INLINE void store_some(float* p, F32 x, int n) { std::memcpy(p, x.v, n < LANES ? n * 4 : sizeof x.v); }
OF_INLINE F32 fma(F32 a, F32 b, F32 c) { OF_EACH(F32, __builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
OF_INLINE F32 operator+(F32 a, F32 b) { OF_EACH(F32, a.v[i] + b.v[i]); }
OF_INLINE F32 operator-(F32 a, F32 b) { OF_EACH(F32, a.v[i] - b.v[i]); }
OF_INLINE F32 operator*(F32 a, F32 b) { OF_EACH(F32, a.v[i] * b.v[i]); }
OF_INLINE F32 operator/(F32 a, F32 b) { OF_EACH(F32, a.v[i] / b.v[i]); }
OF_INLINE F32 max(F32 a, F32 b) { OF_EACH(F32, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }  // b where either is no number
OF_INLINE F32 min(F32 a, F32 b) { OF_EACH(F32, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
OF_INLINE F32 sqrt(F32 a) { OF_EACH(F32, __builtin_sqrtf(a.v[i])); }
OF_INLINE F32 rounded(F32 a) { OF_EACH(F32, __builtin_nearbyintf(a.v[i])); }
// Out of range and no number become the least of all integers, as the machines' own instruction has it.
OF_INLINE int32_t nearest(float x) { return x >= -2147483648.0f && x < 2147483648.0f ? int32_t(__builtin_nearbyintf(x)) : INT32_MIN; }
OF_INLINE I32 to_int(F32 a) { OF_EACH(I32, nearest(a.v[i])); }
OF_INLINE F32 to_float(I32 a) { OF_EACH(F32, float(a.v[i])); }
OF_INLINE F32 as_float(I32 a) { OF_EACH(F32, from_bits(uint32_t(a.v[i]))); }
OF_INLINE I32 as_int(F32 a) { OF_EACH(I32, int32_t(to_bits(a.v[i]))); }
OF_INLINE I32 no_ints() { OF_EACH(I32, 0); }
OF_INLINE I32 all_ints(int32_t x) { OF_EACH(I32, x); }
OF_INLINE I32 operator+(I32 a, I32 b) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]))); }
OF_INLINE I32 operator-(I32 a, I32 b) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]))); }
OF_INLINE I32 operator&(I32 a, I32 b) { OF_EACH(I32, a.v[i] & b.v[i]); }
OF_INLINE I32 operator|(I32 a, I32 b) { OF_EACH(I32, a.v[i] | b.v[i]); }
template <int N> OF_INLINE I32 shift_left(I32 a) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) << N)); }
template <int N> OF_INLINE I32 shift_right(I32 a) { OF_EACH(I32, int32_t(uint32_t(a.v[i]) >> N)); }
OF_INLINE F32 where_less(F32 a, F32 b, F32 yes, F32 no) { OF_EACH(F32, a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
OF_INLINE F32 where_number(F32 x, F32 yes, F32 no) { OF_EACH(F32, x.v[i] == x.v[i] ? yes.v[i] : no.v[i]); }
OF_INLINE F32 load_bf16(const uint16_t* p) { OF_EACH(F32, from_bf16(p[i])); }
OF_INLINE F32 load_f16(const uint16_t* p) { OF_EACH(F32, from_f16(p[i])); }
OF_INLINE void store_f16(uint16_t* p, F32 x) { for (int i = 0; i < LANES; ++i) p[i] = to_f16(x.v[i]); }
OF_INLINE I32 load_ints(const void* p) { I32 r; std::memcpy(r.v, p, sizeof r.v); return r; }
OF_INLINE void store_ints(void* p, I32 x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE Pairs load_pairs(const void* p) { Pairs r; std::memcpy(r.v, p, sizeof r.v); return r; }
OF_INLINE void store_pairs(void* p, Pairs x) { std::memcpy(p, x.v, sizeof x.v); }
OF_INLINE Pairs all_pairs(int32_t pair) {
    Pairs r;
    for (int i = 0; i < LANES; ++i) std::memcpy(r.v + 2 * i, &pair, 4);
    return r;
}
OF_INLINE Pairs load_bytes(const int8_t* p) {
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = p[i];
    return r;
}
OF_INLINE I32 madd(Pairs a, Pairs b, I32 c) {
    OF_EACH(I32, int32_t(uint32_t(c.v[i]) + uint32_t(int32_t(a.v[2 * i]) * b.v[2 * i] + int32_t(a.v[2 * i + 1]) * b.v[2 * i + 1])));
}
// The J-th nibble of each of the 32 numbers of 16 bits.
template <int J> OF_INLINE Pairs nibble(Pairs v) {
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = int16_t(uint16_t(v.v[i]) >> (4 * J) & 15);
    return r;
}
struct Table { int16_t v[16]; };  // what sixteen codes mean
OF_INLINE Table table_of(const int16_t* t) { Table r; std::memcpy(r.v, t, sizeof r.v); return r; }
template <int J> OF_INLINE Pairs coded(Table t, Pairs v) {  // what the J-th nibbles mean
    Pairs r;
    for (int i = 0; i < 2 * LANES; ++i) r.v[i] = t.v[uint16_t(v.v[i]) >> (4 * J) & 15];
    return r;
}
OF_INLINE F32 look_up(const float* t, I32 codes) { OF_EACH(F32, t[codes.v[i]]); }
OF_INLINE I32 max(I32 a, I32 b) { OF_EACH(I32, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
OF_INLINE void store_shorts(int16_t* p, I32 x) { for (int i = 0; i < LANES; ++i) p[i] = int16_t(x.v[i]); }
OF_INLINE void store_halves(uint16_t* p, I32 x) { for (int i = 0; i < LANES; ++i) p[i] = uint16_t(x.v[i]); }
OF_INLINE F32 load_e5m2(const uint8_t* p) { OF_EACH(F32, from_f16(uint16_t(p[i] << 8))); }
OF_INLINE F32 load_e4m3(const uint8_t* p) {
    OF_EACH(F32, (p[i] & 127) == 127 ? NAN : 256.0f * from_f16(uint16_t((p[i] & 128) << 8 | (p[i] & 127) << 7)));
}
// Each lane with its neighbour: 0 and 1, 2 and 3, and so on.
OF_INLINE F32 neighbours_swapped(F32 x) { OF_EACH(F32, x.v[i ^ 1]); }
OF_INLINE float sum(F32 a) {
    float h[8], q[4];
    for (int i = 0; i < 8; ++i) h[i] = a.v[i] + a.v[i + 8];
    for (int i = 0; i < 4; ++i) q[i] = h[i] + h[i + 4];
    return (q[0] + q[2]) + (q[1] + q[3]);
}
OF_INLINE float top(F32 a) {
    float m = a.v[0];
    for (int i = 1; i < LANES; ++i) m = a.v[i] > m ? a.v[i] : m;
    return m;
}

}  // namespace of
