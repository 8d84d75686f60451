/* What the control side does often, in one call each. */
#include "export.h"

#include "loop.h"

EXPORT void tavern_submit_all(struct data_path *path, const uint8_t *commands, size_t size)
{
    records_put_all(&path->commands, commands, size);
    wake_up(&path->wake);
}
