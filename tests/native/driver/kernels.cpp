// Every kernel, at every remainder. Numbers are compared with float64 roughly (the Python tests do it closely); what
// matters here is that no byte beyond the buffers is touched.
#include "attention_cases.hpp"
#include "driver.hpp"
#include "integer_cases.hpp"
#include "sampling_cases.hpp"

#if defined(__AVX512BF16__) || defined(OF_PLAIN_BF16_DOTS) || defined(OF_PLAIN_TILES)
#define OF_ROUGH 1
#else
#define OF_ROUGH 0
#endif

namespace {

constexpr int64_t OUTS[] = {1, 15, 16, 17, 33, 80}, INS[] = {1, 2, 7, 8, 9, 31, 64, 255, 257};
constexpr int64_t ROWS[] = {0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 25, 241};
constexpr int32_t FLOATS[] = {OF_F32, OF_BF16, OF_F16};

bool near(double got, double expected, double magnitude, int32_t kind) {
    // The chain's rounding, and that of what is written; a machine of bf16 pairs rounds rows to bf16 first.
    const double unit = kind == OF_BF16 ? 8e-3 : kind == OF_F16 ? 1e-3 : 0, chain = OF_ROUGH ? 8e-3 : 2e-5;
    return std::fabs(got - expected) <= unit * std::fabs(expected) + chain * magnitude + 1e-6;
}

void matrices_of_floats() {
    for (int32_t kind : FLOATS)
        for (int64_t outs : OUTS)
            for (int64_t ins : INS) {
                Rows weight(kind, outs, ins, ins % 3), back(kind, outs, ins);
                weight.fill();
                Exact<uint8_t> codes(of_packed_bytes(kind, outs, ins));
                CHECK(of_pack(&weight.c, kind, codes.at()) == OF_OK);
                const of_matrix matrix{codes.at(), nullptr, nullptr, nullptr, outs, ins, ins, kind, OF_F32};
                CHECK(of_unpack(&matrix, &back.c) == OF_OK);
                for (int64_t o = 0; o < outs; ++o)
                    for (int64_t i = 0; i < ins; ++i) CHECK(back.get(o, i) == weight.get(o, i));
                Exact<float> bias(outs);
                for (int64_t o = 0; o < outs; ++o) bias[o] = drawn();
                for (int64_t rows : ROWS) {
                    const int32_t from = FLOATS[rows % 3], to = FLOATS[(rows + ins) % 3];
                    Rows x(from, rows, ins, rows % 2), y(to, rows, outs, outs % 2);
                    x.fill();
                    const bool more = rows % 4 == 1;
                    if (more) y.fill();
                    Rows before(to, rows, outs, outs % 2);
                    for (int64_t r = 0; r < rows; ++r)
                        for (int64_t o = 0; o < outs; ++o) before.set(r, o, y.get(r, o));
                    CHECK(of_matmul(&matrix, &x.c, bias.at(), &y.c, more ? OF_ACCUMULATE : 0) == OF_OK);
                    for (int64_t r = 0; r < rows; r += rows > 30 ? 30 : 1)
                        for (int64_t o = 0; o < outs; ++o) {
                            double sum = bias[o] + (more ? before.get(r, o) : 0), magnitude = std::fabs(sum);
                            for (int64_t i = 0; i < ins; ++i) {
                                const double term = double(x.get(r, i)) * weight.get(o, i);
                                sum += term, magnitude += std::fabs(term);
                            }
                            CHECK(near(y.get(r, o), sum, magnitude, to));
                        }
                }
            }
}

void rows_alone_and_together() {
    for (int32_t kind : FLOATS)
        for (int64_t ins : {24, 40, 1032}) {
            const int64_t outs = 37, rows = 35;
            Rows weight(kind, outs, ins), x(OF_F32, rows, ins), together(OF_F32, rows, outs), few(OF_F32, 3, outs);
            weight.fill(), x.fill();
            Exact<uint8_t> codes(of_packed_bytes(kind, outs, ins));
            CHECK(of_pack(&weight.c, kind, codes.at()) == OF_OK);
            const of_matrix matrix{codes.at(), nullptr, nullptr, nullptr, outs, ins, ins, kind, OF_F32};
            CHECK(of_matmul(&matrix, &x.c, nullptr, &together.c, 0) == OF_OK);
            for (int64_t first = 0; first + 3 <= rows; first += 4)
                for (int64_t count = 1; count <= 3; ++count) {
                    const of_rows some{static_cast<float*>(x.c.at) + first * ins, count, ins, ins, OF_F32, 0};
                    const of_rows to{few.c.at, count, outs, outs, OF_F32, 0};
                    CHECK(of_matmul(&matrix, &some, nullptr, &to, 0) == OF_OK);
                    for (int64_t r = 0; r < count; ++r)
                        for (int64_t o = 0; o < outs; ++o) CHECK(few.get(r, o) == together.get(first + r, o));
                }
        }
}

void a_matrix_of_an_unknown_kind() {
    Rows x(OF_F32, 1, 8), y(OF_F32, 1, 16);
    const of_matrix matrix{nullptr, nullptr, nullptr, nullptr, 16, 8, 8, 99, OF_F32};
    CHECK(of_matmul(&matrix, &x.c, nullptr, &y.c, 0) == OF_UNKNOWN_KIND);
    CHECK(of_pack(&x.c, 99, nullptr) == OF_UNKNOWN_KIND);
}

constexpr int64_t WIDTHS[] = {1, 2, 3, 15, 16, 17, 31, 64, 65, 130, 1000};

void norms() {
    for (int64_t width : WIDTHS)
        for (int64_t groups : {1, 3})
            for (int32_t centred : {0, 1})
                for (int64_t rows : {1, 5}) {
                    Rows x(OF_F32, rows, groups * width, 1), y(OF_F32, rows, groups * width);
                    x.fill();
                    const int64_t step = groups > 1 ? width : 0;
                    Exact<float> weight(step == 0 ? width : groups * width), bias(weight.count());
                    for (int64_t i = 0; i < weight.count(); ++i) weight[i] = drawn(), bias[i] = drawn();
                    CHECK(of_normalise(&x.c, &y.c, groups, weight.at(), bias.at(), step, 1e-5f, centred) == OF_OK);
                    CHECK(of_normalise(&x.c, &x.c, groups, nullptr, nullptr, 0, 1e-5f, centred) == OF_OK);
                }
}

void positions() {
    for (int64_t width : {2, 6, 16, 18, 64, 66, 100})
        for (int64_t dim : {width, width / 4 * 2})
            for (int32_t neighbours : {0, 1}) {
                if (dim == 0) continue;
                Rows x(OF_F32, 3, 4 * width, 2), y(OF_F32, 3, 4 * width), cos(OF_F32, 3, dim), sin(OF_F32, 3, dim, 1);
                CHECK(of_rotate(&x.fill().c, &y.c, 4, &cos.fill().c, &sin.fill().c, neighbours) == OF_OK);
            }
}

void numbers_one_by_one() {
    for (int64_t width : WIDTHS)
        for (int64_t rows : {1, 2, 7}) {
            Rows x(OF_F32, rows, width, 1), other(OF_F32, rows, width, 3), y(OF_F32, rows, width);
            Rows half(OF_BF16, rows, width, 1), quarter(OF_F16, rows, width);
            x.fill(), other.fill();
            for (int32_t act = OF_LINEAR; act < OF_CLAMPED_SWISH; ++act) {
                CHECK(of_activate(act, &x.c, &y.c) == OF_OK);
                CHECK(of_gate(act, 7.0f, 1.702f, 1, &x.c, &other.c, &y.c) == OF_OK);
            }
            CHECK(of_gate(OF_CLAMPED_SWISH, 7.0f, 1.702f, 1, &x.c, &other.c, &y.c) == OF_OK);
            CHECK(of_add(&x.c, &other.c, 0.5f, &y.c) == OF_OK);
            for (int64_t i = 0; i < width; ++i) CHECK(std::fabs(y.get(0, i) - (x.get(0, i) + 0.5f * other.get(0, i))) < 1e-6f);
            CHECK(of_bounded(30.0f, &x.c, &y.c) == OF_OK);
            CHECK(of_convert(&x.c, &half.c) == OF_OK && of_convert(&half.c, &quarter.c) == OF_OK);
            CHECK(of_convert(&quarter.c, &y.c) == OF_OK);
            CHECK(of_softmax(&x.c, &y.c) == OF_OK);
            double sum = 0;
            for (int64_t i = 0; i < width; ++i) sum += y.get(rows - 1, i);
            CHECK(std::fabs(sum - 1) < 1e-5);
        }
}

const Case CASES[] = {
    {"matrices of floats", matrices_of_floats},
    {"rows alone and together", rows_alone_and_together},
    {"a matrix of an unknown kind", a_matrix_of_an_unknown_kind},
    {"matrices of integers", matrices_of_integers},
    {"integers made of floats", integers_made_of_floats},
    {"attention over pages", attention_over_pages},
    {"a program with experts", a_program_with_experts},
    {"norms", norms},
    {"positions", positions},
    {"numbers one by one", numbers_one_by_one},
    {"vocabularies", vocabularies},
};

}  // namespace

int main(int count, char** names) {
    of_set_threads(3);
    return run_all(CASES, count, names);
}
