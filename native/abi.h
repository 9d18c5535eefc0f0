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
#define OF_VERSION 2

enum of_kind { OF_F32, OF_BF16, OF_F16, OF_F8_E4M3, OF_F8_E5M2, OF_I8, OF_N4 };

enum of_error { OF_OK, OF_NO_MEMORY, OF_UNKNOWN_KIND, OF_OUT_OF_RANGE };

/* Rows of numbers. */
typedef struct of_rows {
    void* at;
    int64_t rows, width;
    int64_t stride; /* from a row to the next */
    int32_t kind;   /* OF_F32, OF_BF16 or OF_F16; where matrices are packed any: codes are a byte each */
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
    int64_t group;       /* inputs that share a scale: a multiple of 8 that divides 256, a multiple of 256, or ins or more */
    int32_t kind;
    int32_t scale_kind;  /* OF_F32 or OF_F16: of scales and minima */
} of_matrix;

/* Rows of blocks as a GGUF file holds them, in any order: where each is. */
typedef struct of_blocks {
    const void* const* rows; /* [outs] */
    int32_t type;            /* the number that files have for the type of the blocks */
    int32_t unused;
} of_blocks;

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
/* Asks for pages of 2 MB behind memory that is about to be written, where the system has them. */
OF_API void of_in_large_pages(void* at, int64_t bytes);
/* Packs rows of numbers or codes of the layout's own kind (those of OF_N4 a byte each). Shape: [outs, ins]. */
OF_API int32_t of_pack(const of_rows* source, int32_t kind, void* codes);
/* The inverse of what was packed as floats; any matrix as float32. */
OF_API int32_t of_unpack(const of_matrix* matrix, of_rows* target);
/* Makes the codes, scales and minima of `target` (OF_I8, or OF_N4 with minima, or with the table -8 .. 7) from floats.
 * OF_OUT_OF_RANGE: scales of float16 would be too coarse for these numbers. */
OF_API int32_t of_quantize(const of_rows* source, const of_matrix* target);
/* Scales or minima. Shape: [outs, groups] to [panel][group][16], zeros behind. */
OF_API int32_t of_pack_scales(const of_rows* source, void* scales);
/* Packs blocks: fills the codes, scales and minima of `target`, whose kinds and group are those of the type. */
OF_API int32_t of_pack_blocks(const of_blocks* source, const of_matrix* target);

/* y = x matrix^T (+ bias), rows of any kind to rows of any kind. Shape: [rows, ins] to [rows, outs].
 * Every output is one chain of additions in the order of the inputs, whatever the rows beside it. */
OF_API int32_t of_matmul(const of_matrix* matrix, const of_rows* x, const float* bias, const of_rows* y, int32_t flags);

/* Activations, by the names of src/omniform/blocks/mlp.py; the last is a gate's alone. */
enum of_act {
    OF_LINEAR, OF_GELU, OF_GELU_TANH, OF_SILU, OF_RELU, OF_RELU2, OF_QUICK_GELU, OF_SIGMOID, OF_TANH, OF_SOFTPLUS,
    OF_GELU_10, OF_HARDSWISH, OF_LAPLACE, OF_LEAKY_RELU, OF_MISH, OF_RELU6, OF_SELU, OF_CLAMPED_SWISH
};

/* What is kept of every token, of all rows: [heads][slots][width], with strides in items. */
typedef struct of_state {
    void* at;
    float* scales;        /* of OF_I8: [heads][slots] */
    int64_t heads, width;
    int64_t head_stride;  /* from a head's first number to the next head's */
    int64_t slot_stride;  /* from a slot's to the next slot's */
    int64_t scale_stride; /* from a head's scales to the next head's; a slot's lie side by side */
    int32_t kind;         /* OF_F32, OF_BF16, OF_F16 or OF_I8 */
    int32_t unused;
} of_state;

/* Slots that follow one another: the first, and one past the last. */
typedef struct of_range {
    int64_t first, stop;
} of_range;

/* One row's share of a step. Its keys are numbered from the row's beginning; those from `first_key` on lie in its
 * ranges, one after another. */
typedef struct of_segment {
    int64_t query, queries; /* the first token of the step, and how many */
    int64_t range, ranges;  /* the first of its ranges, and how many */
    int64_t first_key;
} of_segment;

/* Attention: out = softmax(bounded(q k^T scale) + bias) v, of every query to the keys low <= j < high of its row. */
typedef struct of_attention {
    const float* q;                  /* [tokens][heads][keys.width] */
    int64_t q_stride, q_head_stride; /* from a token to the next, from a head to the next */
    float* out;                      /* [tokens][heads][values.width] */
    int64_t out_stride, out_head_stride;
    const of_state* keys;
    const of_state* values;          /* as many heads as keys; may be the same numbers, and narrower */
    int64_t heads;                   /* of queries: a multiple of the keys' */
    const of_segment* segments;
    int64_t segment_count;
    const of_range* ranges;
    const int32_t* low;              /* [tokens]: the first key that a query sees, not before its row's first_key */
    const int32_t* high;             /* [tokens]: one past the last; nothing is seen where that is not above low */
    const float* sinks;              /* [heads]: the score of a key without a value; or none */
    const float* bias;               /* [heads][bias_width], or none: entry clamp(j - place + bias_offset) is added */
    const int32_t* places;           /* [tokens]: a query's own number among its row's keys; read where there is a bias */
    int64_t bias_width, bias_offset;
    float scale;
    float cap;                       /* scores become cap tanh(score / cap); 0 for no bound */
} of_attention;

OF_API int32_t of_attend(const of_attention* call);
/* Rows of float32, all heads side by side, to slots, one for each row, a slot below zero being nowhere; see
 * native/attention.hpp. */
OF_API int32_t of_keep(const of_state* state, const of_rows* x, const int64_t* slots);

/* What happens between products, on rows of float32; see native/elementwise.hpp, whose structs are taken apart here. */
OF_API int32_t of_normalise(
    const of_rows* x, const of_rows* y, int64_t groups, const float* weight, const float* bias, int64_t weight_step,
    float eps, int32_t centred);
OF_API int32_t of_rotate(
    const of_rows* x, const of_rows* y, int64_t heads, const of_rows* cos, const of_rows* sin, int32_t neighbours);
OF_API int32_t of_activate(int32_t act, const of_rows* x, const of_rows* y);
OF_API int32_t of_gate(
    int32_t act, float limit, float alpha, int64_t step, const of_rows* gate, const of_rows* up, const of_rows* y);
OF_API int32_t of_add(const of_rows* x, const of_rows* y, float factor, const of_rows* z);
OF_API int32_t of_softmax(const of_rows* x, const of_rows* y);
OF_API int32_t of_bounded(float cap, const of_rows* x, const of_rows* y);
OF_API int32_t of_convert(const of_rows* x, const of_rows* y);
/* A program: what a stack of layers does with a step, as operations over buffers of float32 (native/program.hpp). */

/* Some columns of a buffer, as heads. */
typedef struct of_place {
    int32_t buffer;
    int32_t at;     /* the first column */
    int32_t heads;  /* how many heads */
    int32_t size;   /* numbers of a head */
    int32_t stride; /* from a head's first column to the next head's */
    int32_t unused;
} of_place;

/* Rows of numbers for all tokens of a step, or for those whose output is wanted. */
typedef struct of_buffer {
    int32_t width;
    int32_t storage; /* where it lies; buffers of one storage are never of use at the same time */
} of_buffer;

/* Memory for a buffer at a time. */
typedef struct of_storage {
    int32_t width;  /* of the widest of them */
    int32_t wanted; /* whether for wanted tokens only */
} of_storage;

enum of_code {
    OF_OP_PRODUCTS, /* out = x matrix^T + bias, side by side, each of columns of x; weight: of_product[n]; m: of_flag */
    OF_OP_NORM,     /* out = norm(x) by head; m: whether centred; n: weight's step from a head to the next; a: eps */
    OF_OP_ROTATE,   /* out = x turned by table n; m: whether neighbours are pairs */
    OF_OP_STORE,    /* keys x and values y (if any: they may be part of the keys) to the slots of state n */
    OF_OP_ATTEND,   /* out = attention of x to the keys of state n (y and z without one), seen as m of its sights; a: scale, b: cap;
                       weight: sinks; k: a bias, or -1 */
    OF_OP_LOOK,     /* out = attention of x to memory n, seen as m of its sights; a: scale, b: cap */
    OF_OP_ACT,      /* out = act(x); m: an of_act */
    OF_OP_SCALE,    /* out = a x */
    OF_OP_CLAMP,    /* out = x between a and b */
    OF_OP_GATE,     /* out = act(x) y; m: an of_act; a: limit, b: alpha */
    OF_OP_ADD,      /* out = x + a y */
    OF_OP_TIMES,    /* out = x y */
    OF_OP_WEIGH,    /* out = x weight + bias, column by column; either may be none */
    OF_OP_SPREAD,   /* out = x times the one number of y */
    OF_OP_PICK,     /* out = x, of the wanted tokens */
    OF_OP_ROUTE,    /* scores x to shares y and experts z; weight: of_routing */
    OF_OP_EXPERTS,  /* out = x through its experts; y: shares, z: experts; weight: of_experts */
    OF_OP_CONVOLVE, /* out = causal convolution of x over its row, column by column; weight: [k][width]; n: a state */
    OF_OP_RECUR,    /* out = what heads read of their states n, into which values x go; weight: of_recurrence */
    OF_OP_SCAN,     /* out = what channels x read of their states n; weight: of_scan */
    OF_OP_JOIN,     /* out = each head of x, and behind it that of y; or y's only one */
    OF_OP_COUNT
};

typedef struct of_op {
    int32_t code;
    int32_t m;
    of_place x, y, z, out;
    const void* weight;
    const float* bias;
    int32_t n, k;
    float a, b;
} of_op;

typedef struct of_product {
    const of_matrix* matrix;
    const float* bias; /* or none */
    int64_t at;        /* columns from out's first to this one's first */
    int64_t from;      /* columns from x's first to those that this one reads */
} of_product;

typedef struct of_routing {
    const float* bias; /* [experts], added for the choice alone; or none */
    int32_t likely;    /* 0: softmax over all, 1: sigmoid, 2: softmax over the chosen */
    int32_t top, groups, top_groups;
    int32_t best;      /* how many of a group's best are summed for how good it is */
    int32_t normed;    /* whether shares are divided by their sum */
    float least;       /* added to that sum */
    float scale;
} of_routing;

typedef struct of_experts {
    const of_product* gate_up; /* [count] */
    const of_product* down;    /* [count] */
    int64_t count, hidden;
    int32_t act, beside; /* beside: each gate stands next to its value */
    float limit, alpha;
} of_experts;

/* See native/recurrent.hpp. */
typedef struct of_recurrence {
    of_place q, k, g, beta; /* heads of q and k: as many as share directions */
    int64_t heads;          /* of values */
    int64_t corrects;
} of_recurrence;

typedef struct of_scan {
    of_place b, c, dt;
    const float* rates; /* [channels / 16][size][16] */
} of_scan;

typedef struct of_program {
    const of_op* ops;
    const of_buffer* buffers;
    const of_storage* storages;
    int64_t op_count, buffer_count, storage_count;
    of_place out;
} of_program;

/* Keys and values of a layer, which of the step's lists of slots new ones go to, and where the sights begin that an
 * operation counts from. */
typedef struct of_kept {
    of_state keys, values;
    int64_t slots, sights;
} of_kept;

/* What queries see: see of_attention. */
typedef struct of_sight {
    const of_segment* segments;
    const of_range* ranges;
    const int32_t* low;
    const int32_t* high;
    const int32_t* query;  /* their own places */
    const int32_t* origin; /* where places of keys are counted from */
    int64_t segment_count;
} of_sight;

typedef struct of_table {
    const float* cos; /* [tokens][dim] */
    const float* sin;
    int64_t dim;
} of_table;

typedef struct of_bias {
    const float* at;
    int64_t width, offset;
    int64_t by_place; /* whether it is for the place of a key, rather than its distance */
    const int32_t* places; /* [tokens]: where keys are counted from, whatever that says; or none */
} of_bias;

/* Tokens of a row that are read one after another. */
typedef struct of_reading {
    int64_t first, count;
    int64_t row;   /* of the step, whose state they go on from and leave; below zero for none */
    int64_t fresh; /* whether they begin at zero all the same */
} of_reading;

/* What a layer keeps of fixed size, of every row: where it is read, and where it is written to. */
typedef struct of_fixed {
    const void* from; /* none: all begin at zero */
    void* to;         /* may be the same */
    const int64_t* places; /* where each row of the step lies; none: in the order of the step */
    int64_t stride;   /* items from a row to the next */
    int32_t kind;     /* OF_F32, OF_BF16 or OF_F16 */
    int32_t unused;
} of_fixed;

typedef struct of_step {
    of_rows x;              /* buffer 0 */
    of_rows out;
    const int64_t* wanted;  /* [x rows or fewer]; none for all */
    const of_kept* kept;    /* of every layer with state; none where there is none */
    const int64_t* const* slots;
    const of_kept* memories;
    const of_sight* sights;
    const of_table* tables;
    const of_bias* biases;
    const of_reading* readings;
    const of_fixed* fixed;  /* of every layer that keeps such a state; none where there is none */
    int64_t reading_count;
    void* arena;            /* storages one after another, each begun at a multiple of 64 bytes */
} of_step;

/* Bytes of the structs from of_place to of_step, in their order here, then 0. */
OF_API const int32_t* of_program_sizes(void);

/* Computes a step. */
OF_API int32_t of_run(const of_program* program, const of_step* step);

/* Every row of float32 in ascending order, and where each number stood: equal ones in the order of their places, what is
 * no number last. places: [rows, width]. A row has at most 2^32 numbers. */
OF_API int32_t of_sort(const of_rows* x, const of_rows* sorted, int64_t* places);

/* What leaves tokens out of a draw, by a share or a limit that is above zero. */
enum of_filter { OF_TOP_P, OF_TYPICAL, OF_MIN_P, OF_EPSILON, OF_ETA };

/* Where a filter cuts rows of float32 scores. bounds: [rows][4], in ascending order: scores from the second to the third
 * are left for sure, those below the first and above the fourth are not, and between them others' rounding, or their
 * order of equal scores, decides. Not numbers where a score is none, or too large. */
OF_API int32_t of_cut(const of_rows* x, int32_t filter, double amount, float* bounds);
/* How many scores of each row lie from the first to the fourth of its bounds, or are no numbers. */
OF_API int32_t of_count_within(const of_rows* x, const float* bounds, int64_t* counts);
/* Those, and where each stood, in the order of places; minus infinity and 0 behind. places: [rows, taken width]. */
OF_API int32_t of_take_within(const of_rows* x, const float* bounds, const of_rows* taken, int64_t* places);
/* Which of a row's odds wins: the first of the highest of odds / -log(1 - u), in float32, with u of its own token (of its
 * own place, without tokens), from 0 to below 1. */
OF_API int64_t of_draw(const of_rows* odds, const int64_t* tokens, const double* uniform);
/* Likewise, with the next numbers for a whole vocabulary of torch's generator, whose state (as get_state gives it) goes
 * on; below zero where there is no memory. Without odds it only goes on. */
OF_API int64_t of_draw_on(const of_rows* odds, const int64_t* tokens, int64_t vocabulary, void* generator);
/* Where the first of the highest scores of each row stands, float32 or bfloat16; what is no number is above all. */
OF_API int32_t of_highest(const of_rows* x, int64_t* places);

#ifdef __cplusplus
}
#endif
#endif
