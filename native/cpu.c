/* What this processor can do, asked of itself; compiled without any flags, since it runs before the choice is made. */
#include <stdint.h>

#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux gives the registers of tiles, which are large, to processes that ask (Documentation/arch/x86/xstate.rst). */
static int may_use_tiles(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

OF_API uint32_t of_cpu_features(void) {
    uint32_t a, b, c, d, found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return 0; /* the system saves no wide registers */
    const int fma = c >> 12 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1, movbe = c >> 22 & 1;
    const uint64_t saved = saved_registers();
    if ((saved & 6) != 6 || !avx || !fma || !f16c || !movbe || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const uint32_t leaves = a;
    if (!(b & 1u << 5) || !(b & 1u << 3) || !(b & 1u << 8)) return 0; /* AVX2, BMI1, BMI2 */
    found |= OF_CPU_V3;
    const int tiles = d >> 24 & 1, tiles_bf16 = d >> 22 & 1, tiles_int8 = d >> 25 & 1;
    const int v4 = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 28 & 1) && (b >> 30 & 1) && (b >> 31 & 1);
    const int vnni = c >> 11 & 1;
    uint32_t a1 = 0, b1, c1, d1;
    if (leaves >= 1) __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    if (a1 >> 4 & 1) found |= OF_CPU_AVX_VNNI;
    if (v4 && (saved & 0xe0) == 0xe0) {
        found |= OF_CPU_V4;
        if (vnni) found |= OF_CPU_V4_VNNI;
        if (a1 >> 5 & 1) found |= OF_CPU_V4_BF16;
        if (tiles && tiles_bf16 && tiles_int8 && (saved & 0x60000) == 0x60000 && may_use_tiles()) found |= OF_CPU_AMX;
    }
    return found;
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#define HWCAP2_BF16 (1 << 14)
#endif
OF_API uint32_t of_cpu_features(void) {
    const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
    uint32_t found = OF_CPU_NEON;
    if (one >> 20 & 1) found |= OF_CPU_DOTPROD;
    if (two & HWCAP2_I8MM) found |= OF_CPU_I8MM;
    if (two & HWCAP2_BF16) found |= OF_CPU_BF16;
    return found;
}
#else
OF_API uint32_t of_cpu_features(void) { return OF_CPU_NEON | OF_CPU_DOTPROD; } /* every Apple processor has both */
#endif
#else
OF_API uint32_t of_cpu_features(void) { return 0; }
#endif
