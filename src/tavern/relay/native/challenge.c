#include "challenge.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    ALLOCATE_REQUEST = 0x0003,
    ALLOCATE_ERROR = 0x0113,
    ERROR_CODE = 0x0009,
    REALM = 0x0014,
    NONCE = 0x0015,
    MESSAGE_INTEGRITY_SHA256 = 0x001C,
    FINGERPRINT = 0x8028,
    MAX_ATTRIBUTES = 16, /* of what is usual: clients send three to six */
    TAG_SIZE = 14,       /* 112 bits beside 4 bytes of time */
    BLOCK_SIZE = 128,
    MAX_KEY_SIZE = 64,
};

struct challenge {
    uint64_t keyed[8]; /* BLAKE2b's state after the block that holds the key */
    size_t realm_size;
    uint8_t realm[MAX_REALM_SIZE];
    struct buckets sources;
};

/* BLAKE2b (RFC 7693), as far as one block of message under a key takes it. */

static const uint64_t IV[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                               0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

static const uint8_t SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t rotate(uint64_t word, int bits)
{
    return word >> bits | word << (64 - bits);
}

static inline void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = rotate(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = rotate(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = rotate(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotate(v[b] ^ v[c], 63);
}

static void compress(uint64_t *state, const uint8_t *block, uint64_t bytes_so_far, bool is_last)
{
    uint64_t v[16], words[16];
    for (int at = 0; at < 16; at++) {
        words[at] = 0;
        for (int byte = 7; byte >= 0; byte--)
            words[at] = words[at] << 8 | block[8 * at + byte];
    }
    memcpy(v, state, 8 * sizeof *v);
    memcpy(v + 8, IV, sizeof IV);
    v[12] ^= bytes_so_far;
    if (is_last)
        v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = SIGMA[round % 10];
        for (int at = 0; at < 4; at++)
            mix(v, at, 4 + at, 8 + at, 12 + at, words[s[2 * at]], words[s[2 * at + 1]]);
        for (int at = 0; at < 4; at++)
            mix(v, at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4, words[s[8 + 2 * at]],
                words[s[8 + 2 * at + 1]]);
    }
    for (int at = 0; at < 8; at++)
        state[at] ^= v[at] ^ v[8 + at];
}

/* Of at most a block; TAG_SIZE bytes. */
static void authenticate(const struct challenge *challenge, const uint8_t *message, size_t size, uint8_t *tag)
{
    uint64_t state[8];
    uint8_t block[BLOCK_SIZE] = {0};
    memcpy(state, challenge->keyed, sizeof state);
    memcpy(block, message, size);
    compress(state, block, BLOCK_SIZE + size, true);
    for (int at = 0; at < TAG_SIZE; at++)
        tag[at] = (uint8_t)(state[at / 8] >> 8 * (at % 8));
}

struct challenge *challenge_open(const uint8_t *key, size_t key_size, const uint8_t *realm, size_t realm_size,
                                 double rate_per_s, double burst)
{
    if (key_size < 16 || key_size > MAX_KEY_SIZE || realm_size > MAX_REALM_SIZE)
        return NULL;
    struct challenge *challenge = allocate(sizeof *challenge);
    uint8_t block[BLOCK_SIZE] = {0};
    memcpy(block, key, key_size);
    memcpy(challenge->keyed, IV, sizeof IV);
    challenge->keyed[0] ^= 0x01010000 ^ key_size << 8 ^ TAG_SIZE;
    compress(challenge->keyed, block, BLOCK_SIZE, false);
    memcpy(challenge->realm, realm, realm_size);
    challenge->realm_size = realm_size;
    buckets_open(&challenge->sources, rate_per_s, burst);
    return challenge;
}

void challenge_close(struct challenge *challenge)
{
    free(challenge);
}

/* 18 bytes as 24 letters (RFC 4648 §5). */
static void write_base64(uint8_t *to, const uint8_t *bytes)
{
    static const char LETTERS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (int at = 0; at < 18; at += 3) {
        uint32_t bits = (uint32_t)bytes[at] << 16 | (uint32_t)bytes[at + 1] << 8 | bytes[at + 2];
        for (int letter = 0; letter < 4; letter++)
            *to++ = (uint8_t)LETTERS[bits >> (18 - 6 * letter) & 63];
    }
}

void challenge_nonce(const struct challenge *challenge, const struct address *client, double now, uint8_t *nonce)
{
    uint8_t signed_[BLOCK_SIZE];
    uint8_t bytes[4 + TAG_SIZE];
    uint32_t stamp = (uint32_t)(uint64_t)now;
    for (int at = 0; at < 4; at++)
        bytes[at] = signed_[at] = (uint8_t)(stamp >> (24 - 8 * at));
    write_16(signed_ + 4, client->port);
    char *host = (char *)signed_ + 6;
    inet_ntop(client->family == IPV4 ? AF_INET : AF_INET6, client->ip, host, INET6_ADDRSTRLEN);
    size_t size = 6 + strlen(host);
    if (client->scope != 0) /* as five_tuple_of writes it */
        size += (size_t)snprintf((char *)signed_ + size, sizeof signed_ - size, "%%%u", client->scope);
    authenticate(challenge, signed_, size, bytes + 4);
    write_base64(nonce, bytes);
}

/* Whether it is whole, and has nothing that proves a user or the message: all else has no say in the answer. */
static bool is_plain_allocate(const uint8_t *data, size_t size)
{
    if (!stun_is(data, size, ALLOCATE_REQUEST) || size & 3)
        return false;
    size_t offset = STUN_HEADER_SIZE;
    for (int left = MAX_ATTRIBUTES; offset < size; left--) {
        unsigned type = read_16(data + offset);
        size_t length = read_16(data + offset + 2);
        if (left == 0 || length > size - offset - 4)
            return false;
        if (type == MESSAGE_INTEGRITY || type == MESSAGE_INTEGRITY_SHA256 || type == FINGERPRINT)
            return false;
        offset += 4 + ((length + 3) & ~(size_t)3);
    }
    return true;
}

static uint8_t *write_attribute(uint8_t *to, unsigned type, const void *value, size_t size)
{
    write_16(to, type);
    write_16(to + 2, (unsigned)size);
    memset(to + 4, 0, (size + 3) & ~(size_t)3);
    memcpy(to + 4, value, size);
    return to + 4 + ((size + 3) & ~(size_t)3);
}

bool challenge_answer(struct challenge *challenge, const uint8_t *data, size_t size, const struct address *client,
                      double now, uint8_t *to, size_t *answer_size)
{
    static const uint8_t UNAUTHORIZED[4] = {0, 0, 4, 1};
    uint8_t header[STUN_HEADER_SIZE], nonce[24];
    if (!is_plain_allocate(data, size))
        return false;
    /* By IPv4 address or IPv6 /64. */
    if (!buckets_take(&challenge->sources, hash_bytes(client->ip, 8), now))
        return false;
    memcpy(header, data, sizeof header);
    challenge_nonce(challenge, client, now, nonce);
    uint8_t *end = write_attribute(to + STUN_HEADER_SIZE, ERROR_CODE, UNAUTHORIZED, sizeof UNAUTHORIZED);
    end = write_attribute(end, REALM, challenge->realm, challenge->realm_size);
    end = write_attribute(end, NONCE, nonce, sizeof nonce);
    memcpy(to, header, sizeof header);
    write_16(to, ALLOCATE_ERROR);
    write_16(to + 2, (unsigned)(end - to - STUN_HEADER_SIZE));
    *answer_size = (size_t)(end - to);
    return true;
}
