/* The library's C interface: plain numbers, pointers and the structs below, mirrored in src/omniform/native/abi.py.
 *
 * No function throws, keeps what it is given, or reads past what a struct says. Sizes are in items unless they say
 * bytes. Who calls has checked shapes; what is returned is 0, or an OF_ERROR. */
#ifndef OMNIFORM_ABI_H
#define OMNIFORM_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OF_API __attribute__((visibility("default")))

/* Raised whenever a struct or the meaning of a function changes: a library of another number is not used. */
#define OF_VERSION 1

enum of_kind { OF_F32, OF_BF16, OF_F16, OF_F8_E4M3, OF_F8_E5M2, OF_I8, OF_N4 };

enum of_error { OF_OK, OF_NO_MEMORY, OF_UNKNOWN_KIND };

/* Rows of numbers. */
typedef struct of_rows {
    void* at;
    int64_t rows, width;
    int64_t stride; /* from a row to the next */
    int32_t kind;   /* OF_F32, OF_BF16 or OF_F16 */
    int32_t unused;
} of_rows;

/* A matrix in panels of sixteen outputs, interleaved; outputs are padded to sixteen and inputs to eight by zeros.
 *
 *   OF_F32           [panel][input][16]
 *   OF_BF16          [panel][input / 2][16][2]
 *   OF_F16, OF_F8_*  [panel][input][16]
 *   OF_I8            [panel][input / 2][16][2] signed bytes
 *   OF_N4            [panel][input / 8][16 outputs][2]: lanes of 16 bits whose nibble j is the input 8 i + 2 j + p
 *
 * A number is scale * code (+ minimum), or scale * table[code] (+ minimum), of its group of inputs. */
typedef struct of_matrix {
    const void* codes;
    const void* scales;  /* [panel][group][16], or none */
    const void* minima;  /* likewise */
    const float* table;  /* what the sixteen codes of OF_N4 mean, or none: a code is its own number */
    int64_t outs, ins;
    int64_t group;       /* inputs that share a scale */
    int32_t kind;
    int32_t scale_kind;  /* OF_F32 or OF_F16: of scales and minima */
} of_matrix;

enum of_flag {
    OF_ACCUMULATE = 1, /* add to what is in the output */
    OF_EXACT = 2       /* weights as float32, inputs as they are */
};

OF_API int32_t of_version(void);
/* Bytes of: of_rows, of_matrix, ..., in the order of abi.py, then 0. */
OF_API const int32_t* of_struct_sizes(void);
OF_API const char* of_variant(void);

OF_API void of_set_threads(int32_t count);
OF_API int32_t of_threads(void);

/* Bytes of the codes of a matrix. */
OF_API int64_t of_packed_bytes(int32_t kind, int64_t outs, int64_t ins);
/* Packs a matrix of floats whose kind is the layout's own. Shape: [outs, ins]. */
OF_API int32_t of_pack(const of_rows* source, int32_t kind, void* codes);
/* The inverse. */
OF_API int32_t of_unpack(const of_matrix* matrix, of_rows* target);

/* y = x matrix^T (+ bias), rows of any kind to rows of any kind. Shape: [rows, ins] to [rows, outs].
 * Every output is one chain of additions in the order of the inputs, whatever the rows beside it. */
OF_API int32_t of_matmul(const of_matrix* matrix, const of_rows* x, const float* bias, const of_rows* y, int32_t flags);

#ifdef __cplusplus
}
#endif
#endif
