#include "program.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "attention.hpp"
#include "elementwise.hpp"
#include "floats.hpp"
#include "matmul.hpp"
#include "pool.hpp"
#include "recurrent.hpp"

namespace of {
namespace {

// One step of a program, with its buffers laid out.
class Run {
  public:
    Run(const of_program& program, const of_step& step) : program_(program), step_(step), all_(step.x.rows), wanted_(step.out.rows) {
        char* at = static_cast<char*>(step.arena);
        for (int64_t n = 0; n < program.storage_count; ++n) {
            storages_[n] = reinterpret_cast<float*>(at);
            const int64_t bytes = rows_of(n) * program.storages[n].width * 4;
            at += (bytes + 63) / 64 * 64;
        }
    }

    int64_t rows_of(int64_t storage) const { return program_.storages[storage].wanted ? wanted_ : all_; }

    // What a place stands for.
    float* at(const of_place& p) const { return storages_[program_.buffers[p.buffer].storage] + p.at; }
    int64_t stride(const of_place& p) const { return program_.buffers[p.buffer].width; }
    int64_t rows(const of_place& p) const { return rows_of(program_.buffers[p.buffer].storage); }
    static int64_t width(const of_place& p) { return int64_t(p.heads) * p.size; }
    of_rows as_rows(const of_place& p) const { return {at(p), rows(p), width(p), stride(p), OF_F32, 0}; }

    const of_program& program_;
    const of_step& step_;

  private:
    const int64_t all_, wanted_;
    float* storages_[64];
};

using Operation = void (*)(const Run&, const of_op&);

void products(const Run& run, const of_op& op) {
    const of_product* each = static_cast<const of_product*>(op.weight);
    for (int32_t i = 0; i < op.n; ++i) {
        const of_rows x = {run.at(op.x) + each[i].from, run.rows(op.x), each[i].matrix->ins, run.stride(op.x), OF_F32, 0};
        const of_rows y = {run.at(op.out) + each[i].at, x.rows, each[i].matrix->outs, run.stride(op.out), OF_F32, 0};
        matmul(*each[i].matrix, x, each[i].bias, y, op.m);
    }
}

void norm(const Run& run, const of_op& op) {
    const Norm how = {static_cast<const float*>(op.weight), op.bias, op.x.heads, op.x.size, op.n, op.a, op.m != 0};
    normalise(how, run.at(op.x), run.stride(op.x), run.at(op.out), run.stride(op.out), run.rows(op.x));
}

void rotate(const Run& run, const of_op& op) {
    const of_table& table = run.step_.tables[op.n];
    const Rotary how = {table.cos, table.sin, table.dim, op.x.heads, op.x.size, op.x.stride, op.out.stride, table.dim, op.m != 0};
    rotate(how, run.at(op.x), run.stride(op.x), run.at(op.out), run.stride(op.out), run.rows(op.x));
}

void store(const Run& run, const of_op& op) {
    if (run.step_.kept == nullptr) return;  // attention reads them where they are
    const of_kept& kept = run.step_.kept[op.n];
    const int64_t* slots = run.step_.slots[kept.slots];
    keep(kept.keys, run.at(op.x), run.stride(op.x), slots, run.rows(op.x));
    if (op.y.buffer >= 0) keep(kept.values, run.at(op.y), run.stride(op.y), slots, run.rows(op.y));
}

of_state as_state(const Run& run, const of_place& p) {
    return {run.at(p), nullptr, p.heads, p.size, p.stride, run.stride(p), 0, OF_F32, 0};
}

void attend_to(const Run& run, const of_op& op, const of_state& keys, const of_state& values, int64_t sights) {
    const of_sight& sight = run.step_.sights[sights + op.m];
    of_attention call = {};
    call.q = run.at(op.x);
    call.q_stride = run.stride(op.x);
    call.q_head_stride = op.x.stride;
    call.out = run.at(op.out);
    call.out_stride = run.stride(op.out);
    call.out_head_stride = values.width;
    call.keys = &keys;
    call.values = &values;
    call.heads = op.x.heads;
    call.segments = sight.segments;
    call.segment_count = sight.segment_count;
    call.ranges = sight.ranges;
    call.low = sight.low;
    call.high = sight.high;
    call.sinks = static_cast<const float*>(op.weight);
    call.scale = op.a;
    call.cap = op.b;
    if (op.code == OF_OP_ATTEND && op.k >= 0) {
        const of_bias& bias = run.step_.biases[op.k];
        call.bias = bias.at;
        call.bias_width = bias.width;
        call.bias_offset = bias.offset;
        call.places = bias.places != nullptr ? bias.places : bias.by_place ? sight.origin : sight.query;
    }
    attend(call);
}

void attend_own(const Run& run, const of_op& op) {
    if (run.step_.kept != nullptr) {
        const of_kept& kept = run.step_.kept[op.n];
        return attend_to(run, op, kept.keys, kept.values, kept.sights);
    }
    attend_to(run, op, as_state(run, op.y), as_state(run, op.z), 0);
}

void look(const Run& run, const of_op& op) {
    const of_kept& memory = run.step_.memories[op.n];
    attend_to(run, op, memory.keys, memory.values, memory.sights);
}

void act(const Run& run, const of_op& op) {
    activate(op.m, run.at(op.x), run.stride(op.x), run.at(op.out), run.stride(op.out), run.rows(op.x), run.width(op.x));
}

void scaled(const Run& run, const of_op& op) {
    scale(op.a, run.at(op.x), run.stride(op.x), run.at(op.out), run.stride(op.out), run.rows(op.x), run.width(op.x));
}

// Runs `body(x row, y row, out row)` over rows, in the threads there are.
template <class F>
void by_row(const Run& run, const of_op& op, F&& body) {
    const bool two = op.code == OF_OP_SPREAD;
    parallel(run.rows(op.out), std::max<int64_t>(1, 8192 / run.width(op.out)), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const float* y = two ? run.at(op.y) + n * run.stride(op.y) : nullptr;
            body(run.at(op.x) + n * run.stride(op.x), y, run.at(op.out) + n * run.stride(op.out));
        }
    });
}

void clamp(const Run& run, const of_op& op) {
    const int64_t width = run.width(op.x);
    by_row(run, op, [&](const float* x, const float*, float* out) {
        for (int64_t i = 0; i < width; ++i) out[i] = x[i] < op.a ? op.a : x[i] > op.b ? op.b : x[i];
    });
}

void gated(const Run& run, const of_op& op) {
    gate({op.m, op.a, op.b, 1}, run.at(op.x), run.stride(op.x), run.at(op.y), run.stride(op.y), run.at(op.out),
         run.stride(op.out), run.rows(op.x), run.width(op.x));
}

void added(const Run& run, const of_op& op) {
    add(run.at(op.x), run.stride(op.x), run.at(op.y), run.stride(op.y), op.a, run.at(op.out), run.stride(op.out),
        run.rows(op.x), run.width(op.x));
}

void product(const Run& run, const of_op& op) {
    times(run.at(op.x), run.stride(op.x), run.at(op.y), run.stride(op.y), run.at(op.out), run.stride(op.out),
          run.rows(op.x), run.width(op.x));
}

void weigh(const Run& run, const of_op& op) {
    const float *x = run.at(op.x), *weight = static_cast<const float*>(op.weight);
    int64_t stride = run.stride(op.x);
    const int64_t to = run.stride(op.out), rows = run.rows(op.x), width = run.width(op.x);
    float* out = run.at(op.out);
    if (weight != nullptr) {
        times(x, stride, weight, 0, out, to, rows, width);
        x = out;
        stride = to;
    }
    if (op.bias != nullptr) add(x, stride, op.bias, 0, 1.0f, out, to, rows, width);
}

void spread(const Run& run, const of_op& op) {
    const int64_t width = run.width(op.x);
    by_row(run, op, [&](const float* x, const float* y, float* out) {
        for (int64_t i = 0; i < width; ++i) out[i] = x[i] * y[0];
    });
}

void pick(const Run& run, const of_op& op) {
    const int64_t* wanted = run.step_.wanted;
    const int64_t bytes = run.width(op.x) * 4, rows = run.rows(op.out);
    for (int64_t n = 0; n < rows; ++n) {
        const int64_t from = wanted == nullptr ? n : wanted[n];
        std::memcpy(run.at(op.out) + n * run.stride(op.out), run.at(op.x) + from * run.stride(op.x), size_t(bytes));
    }
}

void routed(const Run& run, const of_op& op) {
    route(*static_cast<const of_routing*>(op.weight), run.at(op.x), run.stride(op.x), run.width(op.x), run.at(op.y),
          run.stride(op.y), run.at(op.z), run.stride(op.z), run.rows(op.x));
}

void experts(const Run& run, const of_op& op) {
    through_experts(*static_cast<const of_experts*>(op.weight), run.as_rows(op.x), run.at(op.y), run.stride(op.y),
                    run.at(op.z), run.stride(op.z), run.width(op.y), run.as_rows(op.out));
}

Readings readings(const Run& run, const of_op& op) {
    const of_step& step = run.step_;
    const of_fixed* state = step.fixed == nullptr ? nullptr : step.fixed + op.n;
    return {step.readings, step.reading_count, run.rows(op.x), state};
}

Columns columns(const Run& run, const of_place& p) { return {run.at(p), run.stride(p)}; }

void convolved(const Run& run, const of_op& op) {
    const Convolution how = {static_cast<const float*>(op.weight), op.bias, op.k, run.width(op.x)};
    convolve(how, readings(run, op), columns(run, op.x), run.at(op.out), run.stride(op.out));
}

void recurred(const Run& run, const of_op& op) {
    const of_recurrence& told = *static_cast<const of_recurrence*>(op.weight);
    const Recurrence how = {
        columns(run, told.q), columns(run, told.k), columns(run, op.x), columns(run, told.g), columns(run, told.beta),
        told.k.heads, told.heads, told.k.size, run.width(op.x) / told.heads, told.corrects != 0,
    };
    recur(how, readings(run, op), run.at(op.out), run.stride(op.out));
}

void scanned(const Run& run, const of_op& op) {
    const of_scan& told = *static_cast<const of_scan*>(op.weight);
    const Scan how = {
        columns(run, op.x), columns(run, told.b), columns(run, told.c), columns(run, told.dt), told.rates,
        run.width(op.x), run.width(told.b),
    };
    scan(how, readings(run, op), run.at(op.out), run.stride(op.out));
}

void joined(const Run& run, const of_op& op) {
    const int64_t skip = op.y.heads == 1 ? 0 : op.y.stride;
    parallel(run.rows(op.out), std::max<int64_t>(1, 8192 / run.width(op.out)), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const float *x = run.at(op.x) + n * run.stride(op.x), *y = run.at(op.y) + n * run.stride(op.y);
            float* out = run.at(op.out) + n * run.stride(op.out);
            for (int64_t head = 0; head < op.x.heads; ++head, out += op.x.size + op.y.size) {
                std::copy(x + head * op.x.stride, x + head * op.x.stride + op.x.size, out);
                std::copy(y + head * skip, y + head * skip + op.y.size, out + op.x.size);
            }
        }
    });
}

// In the order of of_code.
constexpr Operation OPERATIONS[] = {
    products, norm, rotate, store, attend_own, look, act, scaled, clamp, gated, added, product, weigh, spread, pick,
    routed, experts, convolved, recurred, scanned, joined,
};
static_assert(sizeof OPERATIONS / sizeof *OPERATIONS == OF_OP_COUNT, "every operation has its function");

}  // namespace

void run(const of_program& program, const of_step& step) {
    const Run here(program, step);
    convert(step.x, here.as_rows({0, 0, 1, int32_t(step.x.width), int32_t(step.x.width), 0}));
    for (int64_t n = 0; n < program.op_count; ++n) OPERATIONS[program.ops[n].code](here, program.ops[n]);
    convert(here.as_rows(program.out), step.out);
}

}  // namespace of

extern "C" int32_t of_run(const of_program* program, const of_step* step) {
    try {
        of::run(*program, *step);
    } catch (const std::bad_alloc&) {
        return OF_NO_MEMORY;
    }
    return OF_OK;
}

extern "C" const int32_t* of_program_sizes(void) {
    static const int32_t sizes[] = {
        sizeof(of_place), sizeof(of_buffer), sizeof(of_storage), sizeof(of_op), sizeof(of_product), sizeof(of_routing),
        sizeof(of_experts), sizeof(of_recurrence), sizeof(of_scan), sizeof(of_program), sizeof(of_kept),
        sizeof(of_sight), sizeof(of_table), sizeof(of_bias), sizeof(of_reading), sizeof(of_fixed), sizeof(of_step), 0,
    };
    return sizes;
}
