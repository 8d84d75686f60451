/* The answer to who asks for an allocation and proves nothing yet: 401 with a nonce (RFC 8489 §9.2.4; turn/auth.py).

Each handshake begins so, and every flood of a client that has no credential: it is answered here, without the control
side, as long as the source's share lasts. What is beyond that, or unusual, goes to the control side, which has a
share of its own.
*/
#ifndef TAVERN_CHALLENGE_H
#define TAVERN_CHALLENGE_H

#include "buckets.h"
#include "stun.h"

enum {
    MAX_REALM_SIZE = 128,
    /* Bytes that an answer takes: header, ERROR-CODE, REALM, NONCE. */
    MAX_CHALLENGE_SIZE = STUN_HEADER_SIZE + 8 + 4 + MAX_REALM_SIZE + 4 + 24,
};

_Static_assert(HEADROOM + STUN_HEADER_SIZE + TAILROOM >= MAX_CHALLENGE_SIZE, "an answer fits where its request was");

struct challenge;

/* `key`: 16 to 64 bytes. NULL for a key or a realm of a size that is not served. */
struct challenge *challenge_open(const uint8_t *key, size_t key_size, const uint8_t *realm, size_t realm_size,
                                 double rate_per_s, double burst);
void challenge_close(struct challenge *challenge);

/* Whether `data` is an Allocate without credentials and nothing unusual, and its sender's share lasts: then the answer
is written to `to`, and its size to `*answer_size`. Both may be in the same memory. */
bool challenge_answer(struct challenge *challenge, const uint8_t *data, size_t size, const struct address *client,
                      double now, uint8_t *to, size_t *answer_size);

/* `nonce`: 24 bytes of text. */
void challenge_nonce(const struct challenge *challenge, const struct address *client, double now, uint8_t *nonce);

#endif
