#include "stun.h"

#include <arpa/inet.h>
#include <string.h>

#include "sha1.h"

static const uint8_t COOKIE[4] = {0x21, 0x12, 0xA4, 0x42};

void stun_begin(struct message *message, unsigned type, const uint8_t transaction_id[TRANSACTION_ID_SIZE]) {
    put16(message->bytes, type);
    put16(message->bytes + 2, 0);
    memcpy(message->bytes + 4, COOKIE, sizeof COOKIE);
    memcpy(message->bytes + 8, transaction_id, TRANSACTION_ID_SIZE);
    message->size = STUN_HEADER_SIZE;
}

void stun_append(struct message *message, unsigned type, const void *value, size_t size) {
    uint8_t *at = message->bytes + message->size;
    size_t padded = (size + 3) & ~(size_t)3;
    put16(at, type);
    put16(at + 2, (unsigned)size);
    memset(at + 4, 0, padded);
    memcpy(at + 4, value, size);
    message->size += 4 + padded;
    put16(message->bytes + 2, (unsigned)(message->size - STUN_HEADER_SIZE));
}

void stun_append_address(struct message *message, unsigned type, const struct sockaddr_in *address) {
    uint8_t value[8] = {0, 1};
    memcpy(value + 2, &address->sin_port, 2);
    memcpy(value + 4, &address->sin_addr, 4);
    for (int i = 0; i < 2; i++)
        value[2 + i] ^= COOKIE[i];
    for (int i = 0; i < 4; i++)
        value[4 + i] ^= COOKIE[i];
    stun_append(message, type, value, sizeof value);
}

void stun_sign(struct message *message, const uint8_t *key, size_t key_size) {
    uint8_t mac[SHA1_SIZE] = {0};
    size_t before = message->size;
    stun_append(message, MESSAGE_INTEGRITY, mac, sizeof mac); /* the length counts it */
    hmac_sha1(key, key_size, message->bytes, before, mac);
    memcpy(message->bytes + before + 4, mac, sizeof mac);
}

const uint8_t *stun_find(const uint8_t *bytes, size_t total, unsigned type, size_t *size) {
    size_t offset = STUN_HEADER_SIZE;
    while (offset + 4 <= total) {
        size_t length = get16(bytes + offset + 2);
        if (offset + 4 + length > total)
            return NULL;
        if (get16(bytes + offset) == type) {
            *size = length;
            return bytes + offset + 4;
        }
        offset += 4 + ((length + 3) & ~(size_t)3);
    }
    return NULL;
}

int stun_address(const uint8_t *value, size_t size, struct sockaddr_in *address) {
    uint8_t plain[6];
    if (size != 8 || value[1] != 1)
        return 0;
    for (int i = 0; i < 6; i++)
        plain[i] = value[2 + i] ^ COOKIE[i < 2 ? i : i - 2];
    address->sin_family = AF_INET;
    memcpy(&address->sin_port, plain, 2);
    memcpy(&address->sin_addr, plain + 2, 4);
    return 1;
}
