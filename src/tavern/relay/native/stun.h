/* The few shapes of STUN that the data path reads and writes by hand (RFC 8489, RFC 8656 §11). No state. */
#ifndef TAVERN_STUN_H
#define TAVERN_STUN_H

#include "address.h"

enum {
    STUN_HEADER_SIZE = 20,
    CHANNEL_HEADER_SIZE = 4,
    /* Bytes before a payload in which the largest frame's head is written: a Data indication from an IPv6 peer, 48. */
    HEADROOM = 64,
    /* Bytes behind it: for an indication's padding, and for an answer that is larger than the request before it. */
    TAILROOM = 128,
};

enum {
    BINDING_REQUEST = 0x0001,
    BINDING_SUCCESS = 0x0101,
    SEND_INDICATION = 0x0016,
    USERNAME = 0x0006,
    MESSAGE_INTEGRITY = 0x0008,
};

static inline uint16_t read_16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void write_16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

bool stun_has_cookie(const uint8_t *data);

/* Whether the whole of `data` is a message of this type, as far as its header says. */
bool stun_is(const uint8_t *data, size_t size, uint16_t type);

/* Whether it is a Binding request without attributes. */
bool stun_is_plain_binding(const uint8_t *data, size_t size);

/* Whether one of the first 16 attributes is of this type. `data` is a message. */
bool stun_has(const uint8_t *data, size_t size, uint16_t type);

/* The value of the first of them; false without one, or where it is cut off. */
bool stun_find(const uint8_t *data, size_t size, uint16_t type, const uint8_t **value, size_t *value_size);

/* The success response with XOR-MAPPED-ADDRESS of `client` alone, 32 or 44 bytes; its size. */
size_t stun_binding_answer(const uint8_t *request, const struct address *client, uint8_t *answer);

struct send_indication {
    struct address peer;
    uint8_t *payload;
    size_t payload_size;
    bool dont_fragment;
};

/* What a Send indication says; false if it is malformed or not to be understood (turn/indications.py). */
bool stun_read_send(uint8_t *data, size_t size, struct send_indication *read);

/* Frames `payload` as a Data indication in place, in HEADROOM and TAILROOM: where it begins, and its size. */
uint8_t *stun_frame_data(uint8_t *payload, size_t payload_size, const struct address *peer, const uint8_t *transaction,
                         size_t *size);

/* The same for what ICMP said of a packet to `peer`, at `to` (72 bytes); its size, or 0 for what is not passed on. */
size_t stun_frame_icmp(uint8_t *to, const struct address *peer, const uint8_t *transaction, unsigned type, unsigned code,
                       uint32_t mtu);

#endif
