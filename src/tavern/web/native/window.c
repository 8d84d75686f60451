#include "window.h"

#include "memory.h"

#include <string.h>

static const double WINDOW_S = 1.0;

static void forget(struct window *window, double until)
{
    uint32_t old = 0;
    while (old < window->count && window->times[old] <= until)
        old++;
    if (old) {
        window->count -= old;
        memmove(window->times, window->times + old, window->count * sizeof *window->times);
    }
}

bool window_allow(struct window *window, double now)
{
    if (window->count >= window->forget_at) {
        forget(window, now - WINDOW_S);
        if (window->count >= window->limit)
            return false;
        uint32_t next = 2 * window->count + 8;
        window->forget_at = next < window->limit ? next : window->limit;
    }
    if (window->count == window->capacity) {
        window->capacity = window->capacity ? 2 * window->capacity : 8;
        window->times = reallocate(window->times, window->capacity * sizeof *window->times);
    }
    window->times[window->count++] = now;
    return true;
}
