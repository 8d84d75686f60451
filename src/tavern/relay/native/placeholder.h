/* A placeholder until the native data path is there: what the build, and the tests of it, have to compile. */
#ifndef TAVERN_PLACEHOLDER_H
#define TAVERN_PLACEHOLDER_H

__attribute__((visibility("default"))) int tavern_relay_abi(void);

#endif
