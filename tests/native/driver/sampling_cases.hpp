// Large vocabularies in order, cut and drawn from, at every remainder.
#pragma once

#include "driver.hpp"

inline void vocabularies() {
    for (int64_t width : {1, 15, 16, 17, 257, 5003})
        for (int32_t filter = OF_TOP_P; filter <= OF_ETA; ++filter) {
            Rows x(OF_F32, 3, width, width % 3), sorted(OF_F32, 3, width);
            x.fill();
            Exact<int64_t> places(3 * width), counts(3), tops(3);
            CHECK(of_sort(&x.c, &sorted.c, places.at()) == OF_OK);
            CHECK(of_highest(&x.c, tops.at()) == OF_OK);
            Exact<float> bounds(12);
            CHECK(of_cut(&x.c, filter, 0.7, bounds.at()) == OF_OK);
            CHECK(of_count_within(&x.c, bounds.at(), counts.at()) == OF_OK);
            int64_t longest = 0;
            for (int64_t row = 0; row < 3; ++row) {
                for (int64_t i = 1; i < width; ++i) CHECK(sorted.get(row, i - 1) <= sorted.get(row, i));
                CHECK(x.get(row, tops[row]) == sorted.get(row, width - 1));
                for (int64_t b = 1; b < 4; ++b) CHECK(bounds[row * 4 + b - 1] <= bounds[row * 4 + b]);
                CHECK(filter == OF_TYPICAL || bounds[row * 4] <= sorted.get(row, width - 1));
                longest = counts[row] > longest ? counts[row] : longest;
            }
            Rows taken(OF_F32, 3, longest);
            Exact<int64_t> tokens(3 * longest);
            CHECK(of_take_within(&x.c, bounds.at(), &taken.c, tokens.at()) == OF_OK);
            Exact<double> uniform(width);
            for (int64_t i = 0; i < width; ++i) uniform[i] = (drawn() + 2.1) / 5;
            for (int64_t row = 0; row < 3; ++row) {
                Rows odds(OF_F32, 1, longest);
                for (int64_t i = 0; i < longest; ++i) {
                    CHECK(i >= counts[row] || x.get(row, tokens[row * longest + i]) == taken.get(row, i));
                    odds.set(0, i, i < counts[row] ? drawn() + 2 : 0);
                }
                const int64_t best = of_draw(&odds.c, tokens.at() + row * longest, uniform.at());
                CHECK(best >= 0 && best < longest);
                Exact<uint8_t> state(5056);  // a twister of zeros, all of whose words are given
                state[8] = 1;
                CHECK(of_draw_on(&odds.c, tokens.at() + row * longest, width, state.at()) >= 0);
                CHECK(of_draw_on(nullptr, nullptr, width, state.at()) == 0);
            }
        }
}
