/* HMAC-SHA1, for MESSAGE-INTEGRITY (RFC 8489 §14.5). */
#ifndef SHA1_H
#define SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { SHA1_SIZE = 20 };

/* The HMAC of `size` bytes under a key of at most 64 bytes. */
void hmac_sha1(const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t mac[SHA1_SIZE]);

#endif
