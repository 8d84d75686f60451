/* A relayed message as it stands in its frame (signaling/relaying.py's `pass_on`): read, addressed anew. No I/O. */
#ifndef TAVERN_MESSAGE_H
#define TAVERN_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct span {
    const uint8_t *at; /* NULL: not there */
    size_t size;
};

static inline bool span_equal(struct span one, struct span other)
{
    return one.size == other.size && __builtin_memcmp(one.at, other.at, one.size) == 0;
}

enum { MAX_KEPT = 16 }; /* members of a message; those with more are Python's */

/* Spans of the text that was read. Strings are in their quotes. */
struct message {
    struct span type, target, content;
    struct span tavern_id, channel_id; /* where there are any */
    struct span names[MAX_KEPT], values[MAX_KEPT];
    unsigned kept; /* all that its receiver is told, but for `type` and `from` */
};

/* Whether this is a whole offer, answer or candidate to one other, in plain words: a JSON object of strings, ASCII,
 * nothing twice, none but the usual escapes. All else may be in order or not: Python says. */
bool message_read(const uint8_t *data, size_t size, struct message *message);

/* What its receiver is told; `to` has room for the text that was read, `from` and 64 bytes. */
size_t message_write(const struct message *message, struct span from, uint8_t *to);

/* The address of the next UDP candidate from `*offset` on (signaling/candidates.py); false where none follows. */
bool candidate_next(struct span content, size_t *offset, struct span *address);

#endif
