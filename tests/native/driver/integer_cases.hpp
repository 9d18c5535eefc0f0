// Matrices of bytes and of four bits: made of floats, or of any codes; with minima, tables and scales of both kinds.
#pragma once

#include <algorithm>

#include "driver.hpp"

constexpr int64_t ANY_GROUP = 1 << 20;

// What a matrix points at, each of exactly the size that abi.h says.
struct Integers {
    Integers(int32_t kind, int64_t outs, int64_t ins, int64_t group, int32_t scale_kind, bool minima, bool table)
        : group(group < ins ? group : (ins + 7) / 8 * 8), groups((ins + this->group - 1) / this->group),
          codes(of_packed_bytes(kind, outs, ins)), scales((outs + 15) / 16 * 16 * groups * Rows::size(scale_kind)),
          minima(minima ? scales.count() : 0), table(table ? 16 : 0) {
        c = {codes.at(), scales.at(), minima ? this->minima.at() : nullptr, table ? this->table.at() : nullptr,
             outs, ins, this->group, kind, scale_kind};
        for (int i = 0; i < this->table.count(); ++i) this->table[i] = float(i - 8);
    }
    void any_codes() {
        Exact<uint8_t> each(c.outs * c.ins);
        for (int64_t i = 0; i < each.count(); ++i) each[i] = uint8_t(draw() >> 8) & (c.kind == OF_N4 ? 15 : 255);
        const of_rows rows{each.at(), c.outs, c.ins, c.ins, c.kind, 0};
        CHECK(of_pack(&rows, c.kind, codes.at()) == OF_OK);
        Rows some(c.scale_kind, c.outs, groups, 1);
        CHECK(of_pack_scales(&some.fill().c, scales.at()) == OF_OK);
        if (c.minima != nullptr) CHECK(of_pack_scales(&some.fill().c, minima.at()) == OF_OK);
        for (int i = 0; i < table.count(); ++i) table[i] = drawn();
    }
    of_matrix c;
    int64_t group, groups;
    Exact<uint8_t> codes, scales, minima;
    Exact<float> table;
};

// Products of a matrix with rows of every number, exactly and with the rows' 12 bits.
inline void multiplied(const of_matrix& matrix) {
    const int64_t outs = matrix.outs, ins = matrix.ins;
    Rows weight(OF_F32, outs, ins, 1), most(OF_F32, 25, ins);
    CHECK(of_unpack(&matrix, &weight.c) == OF_OK);
    most.fill();
    Exact<float> bias(outs);
    for (int64_t o = 0; o < outs; ++o) bias[o] = drawn();
    Rows first(OF_F32, 1, outs);
    for (int32_t flags : {0, int(OF_EXACT)})
        for (int64_t rows : {1, 2, 5, 6, 7, 13, 25}) {
            Rows x(OF_F32, rows, ins, rows % 2), y(rows % 3 == 2 ? OF_BF16 : OF_F32, rows, outs, rows % 3);
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t i = 0; i < ins; ++i) x.set(r, i, most.get(r, i));
            CHECK(of_matmul(&matrix, &x.c, bias.at(), &y.c, flags) == OF_OK);
            if (rows == 1)
                for (int64_t o = 0; o < outs; ++o) first.set(0, o, y.get(0, o));
            else if (y.c.kind == OF_F32)
                for (int64_t o = 0; o < outs; ++o) CHECK(y.get(0, o) == first.get(0, o));
            for (int64_t r = 0; r < rows; r += rows > 12 ? 12 : 1)
                for (int64_t o = 0; o < outs; ++o) {
                    double sum = bias[o], magnitude = std::fabs(sum), row = 0, all = 0;
                    for (int64_t i = 0; i < ins; ++i) {
                        const double term = double(x.get(r, i)) * weight.get(o, i);
                        sum += term, magnitude += std::fabs(term);
                        row = std::max(row, std::fabs(double(x.get(r, i))));
                        all += std::fabs(weight.get(o, i));
                    }
                    // Half a step of the row's, 2047 to its greatest; and of a table's, whose numbers and scales are up to 2.
                    double allowed = magnitude * 2e-5 + 1e-6 + (y.c.kind == OF_BF16 ? 8e-3 * std::fabs(sum) : 0);
                    if (flags == 0) allowed += row * all / 4000 + (matrix.table ? row * double(ins) * 4 / 8000 : 0);
                    CHECK(std::fabs(y.get(r, o) - sum) <= allowed);
                }
        }
}

inline void matrices_of_integers() {
    for (int32_t kind : {OF_I8, OF_N4})
        for (int form = 0; form < (kind == OF_N4 ? 4 : 2); ++form)
            for (int64_t outs : {1, 17, 48})
                for (int64_t ins : {1, 7, 40, 300, 600})
                    for (int64_t group : {int64_t(8), int64_t(32), int64_t(256), int64_t(512), ANY_GROUP}) {
                        if (group != ANY_GROUP && group >= ins) continue;
                        Integers made(kind, outs, ins, group, form % 2 ? OF_F16 : OF_F32, form & 1, form & 2);
                        made.any_codes();
                        multiplied(made.c);
                    }
}

// Of floats of every kind, back to what lies near them.
inline void integers_made_of_floats() {
    for (int32_t kind : {OF_I8, OF_N4})
        for (bool minima : {false, true})
            for (int32_t from : {OF_F32, OF_BF16, OF_F16})
                for (int64_t outs : {1, 16, 33})
                    for (int64_t ins : {1, 9, 64, 290}) {
                        if (minima && kind == OF_I8) continue;
                        Integers made(
                            kind, outs, ins, ins > 64 ? 32 : ANY_GROUP, outs % 2 ? OF_F16 : OF_F32, minima,
                            kind == OF_N4 && !minima);
                        Rows source(from, outs, ins, ins % 3), back(OF_F32, outs, ins);
                        CHECK(of_quantize(&source.fill().c, &made.c) == OF_OK);
                        CHECK(of_unpack(&made.c, &back.c) == OF_OK);
                        for (int64_t o = 0; o < outs; ++o)
                            for (int64_t i = 0; i < ins; ++i)
                                CHECK(std::fabs(back.get(o, i) - source.get(o, i)) <= (kind == OF_I8 ? 0.012 : 0.4));
                        multiplied(made.c);
                    }
    Integers coarse(OF_I8, 16, 32, ANY_GROUP, OF_F16, false, false);
    Rows great(OF_F32, 16, 32);
    great.fill().set(3, 3, 1e30f);
    CHECK(of_quantize(&great.c, &coarse.c) == OF_OUT_OF_RANGE);
}
