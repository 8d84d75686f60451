/* What the control side does often, in one call each. */
#include "export.h"

#include "loop.h"

EXPORT int tavern_set_challenge(struct data_path *path, const uint8_t *key, size_t key_size, const uint8_t *realm,
                                size_t realm_size, double rate_per_s, double burst)
{
    path->core->challenge = challenge_open(key, key_size, realm, realm_size, rate_per_s, burst);
    return path->core->challenge != NULL;
}

EXPORT void tavern_submit_all(struct data_path *path, const uint8_t *commands, size_t size)
{
    records_put_all(&path->commands, commands, size);
    wake_up(&path->wake);
}
