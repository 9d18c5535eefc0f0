// What a library says of itself before anybody calls a kernel.
#include "abi.h"

extern "C" int32_t of_version(void) { return OF_VERSION; }

extern "C" const int32_t* of_struct_sizes(void) {
    static const int32_t sizes[] = {int32_t(sizeof(of_rows)), int32_t(sizeof(of_matrix)),
                                    int32_t(sizeof(of_state)), int32_t(sizeof(of_range)),
                                    int32_t(sizeof(of_segment)), int32_t(sizeof(of_attention)),
                                    int32_t(sizeof(of_blocks)), 0};
    return sizes;
}

extern "C" const char* of_variant(void) { return OF_VARIANT; }
