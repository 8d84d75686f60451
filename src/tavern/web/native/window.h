/* At most so many events in any second (signaling/limits.py's WindowLimit, and the same to the last digit). */
#ifndef TAVERN_WINDOW_H
#define TAVERN_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

struct window {
    double *times; /* of the events, from the oldest on */
    uint32_t limit, count, capacity, forget_at;
};

/* Whether one more event fits now; it is counted if so. */
bool window_allow(struct window *window, double now);

#endif
