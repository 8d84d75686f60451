#include "placeholder.h"

int tavern_relay_abi(void) { return 0; }
