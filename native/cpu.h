/* What a processor can do, as bits; mirrored in src/omniform/native/cpu.py. */
#ifndef OMNIFORM_CPU_H
#define OMNIFORM_CPU_H

#define OF_API __attribute__((visibility("default")))

enum of_cpu {
    OF_CPU_V3 = 1,       /* x86-64-v3: AVX2, FMA, F16C, BMI2 */
    OF_CPU_AVX_VNNI = 2,
    OF_CPU_V4 = 4,       /* x86-64-v4: AVX-512 F, BW, CD, DQ, VL */
    OF_CPU_V4_VNNI = 8,
    OF_CPU_V4_BF16 = 16,
    OF_CPU_AMX = 32,     /* tiles of bf16 and int8 */
    OF_CPU_NEON = 256,
    OF_CPU_DOTPROD = 512,
    OF_CPU_I8MM = 1024,
    OF_CPU_BF16 = 2048
};

#endif
