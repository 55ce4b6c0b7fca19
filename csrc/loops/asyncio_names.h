// asyncio_names: what this folder's units must know of asyncio, looked up when a program first imports it.
#ifndef PYCONC_ASYNCIO_NAMES_H
#define PYCONC_ASYNCIO_NAMES_H

#include "base/state.h"

// Learns what pyconc._asyncio_glue knows of asyncio, for the module's state.  0, or -1 with an exception.
int asyncio_names_learn(module_state *state);

#endif
