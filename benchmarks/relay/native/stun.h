/* As much of STUN and TURN as a client needs (RFC 8489, RFC 8656). */
#ifndef STUN_H
#define STUN_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STUN_HEADER_SIZE = 20,
    TRANSACTION_ID_SIZE = 12,
    STUN_MAX_SIZE = 1024,
};

enum message_type {
    ALLOCATE_REQUEST = 0x0003,
    REFRESH_REQUEST = 0x0004,
    CHANNEL_BIND_REQUEST = 0x0009,
    SEND_INDICATION = 0x0016,
    DATA_INDICATION = 0x0017,
    SUCCESS_BIT = 0x0100,
    ERROR_BITS = 0x0110,
};

enum attribute_type {
    USERNAME = 0x0006,
    MESSAGE_INTEGRITY = 0x0008,
    ERROR_CODE = 0x0009,
    CHANNEL_NUMBER = 0x000C,
    LIFETIME = 0x000D,
    XOR_PEER_ADDRESS = 0x0012,
    DATA = 0x0013,
    REALM = 0x0014,
    NONCE = 0x0015,
    XOR_RELAYED_ADDRESS = 0x0016,
    REQUESTED_TRANSPORT = 0x0019,
};

struct message {
    uint8_t bytes[STUN_MAX_SIZE];
    size_t size;
};

static inline uint16_t get16(const uint8_t *bytes) { return (uint16_t)(bytes[0] << 8 | bytes[1]); }
static inline void put16(uint8_t *bytes, unsigned value) {
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

/* Begins a message; its length is kept right by what follows. */
void stun_begin(struct message *message, unsigned type, const uint8_t transaction_id[TRANSACTION_ID_SIZE]);

/* Appends an attribute, which must fit. */
void stun_append(struct message *message, unsigned type, const void *value, size_t size);

/* Appends an address attribute. */
void stun_append_address(struct message *message, unsigned type, const struct sockaddr_in *address);

/* Appends MESSAGE-INTEGRITY. */
void stun_sign(struct message *message, const uint8_t *key, size_t key_size);

/* The first attribute of that type, or NULL; its size in `*size`. `bytes` may be anything. */
const uint8_t *stun_find(const uint8_t *bytes, size_t total, unsigned type, size_t *size);

/* Whether the attribute's value is an IPv4 address, which is then in `*address`. */
int stun_address(const uint8_t *value, size_t size, struct sockaddr_in *address);

#endif
