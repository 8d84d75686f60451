#include "sha1.h"

#include <string.h>

enum { BLOCK_SIZE = 64 };

struct sha1 {
    uint32_t state[5];
    uint64_t size;
    uint8_t block[BLOCK_SIZE];
};

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

static void digest_block(struct sha1 *sha) {
    uint32_t words[80];
    for (int i = 0; i < 16; i++) {
        const uint8_t *b = sha->block + 4 * i;
        words[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int i = 16; i < 80; i++)
        words[i] = rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    uint32_t a = sha->state[0], b = sha->state[1], c = sha->state[2], d = sha->state[3], e = sha->state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) {
            f = (b & c) | (~b & d);
            k = 0x5A827999;
        } else if (i < 40) {
            f = b ^ c ^ d;
            k = 0x6ED9EBA1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d);
            k = 0x8F1BBCDC;
        } else {
            f = b ^ c ^ d;
            k = 0xCA62C1D6;
        }
        uint32_t next = rotate(a, 5) + f + e + k + words[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    sha->state[0] += a;
    sha->state[1] += b;
    sha->state[2] += c;
    sha->state[3] += d;
    sha->state[4] += e;
}

static void start(struct sha1 *sha) {
    static const uint32_t initial[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    memcpy(sha->state, initial, sizeof initial);
    sha->size = 0;
}

static void update(struct sha1 *sha, const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        sha->block[sha->size++ % BLOCK_SIZE] = data[i];
        if (sha->size % BLOCK_SIZE == 0)
            digest_block(sha);
    }
}

static void finish(struct sha1 *sha, uint8_t digest[SHA1_SIZE]) {
    uint64_t bits = sha->size * 8;
    uint8_t byte = 0x80;
    do {
        update(sha, &byte, 1);
        byte = 0;
    } while (sha->size % BLOCK_SIZE != BLOCK_SIZE - 8);
    for (int shift = 56; shift >= 0; shift -= 8) {
        byte = (uint8_t)(bits >> shift);
        update(sha, &byte, 1);
    }
    for (int i = 0; i < SHA1_SIZE; i++)
        digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

void hmac_sha1(const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t mac[SHA1_SIZE]) {
    struct sha1 sha;
    uint8_t inner[BLOCK_SIZE], outer[BLOCK_SIZE];
    memset(inner, 0x36, sizeof inner);
    memset(outer, 0x5C, sizeof outer);
    for (size_t i = 0; i < key_size; i++) {
        inner[i] ^= key[i];
        outer[i] ^= key[i];
    }
    start(&sha);
    update(&sha, inner, sizeof inner);
    update(&sha, data, size);
    finish(&sha, mac);
    start(&sha);
    update(&sha, outer, sizeof outer);
    update(&sha, mac, SHA1_SIZE);
    finish(&sha, mac);
}
