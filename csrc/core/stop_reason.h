// stop_reason: why a call that runs is to end.
#ifndef PYCONC_STOP_REASON_H
#define PYCONC_STOP_REASON_H

typedef enum stop_reason {
    STOP_NOT,          // it is not
    STOP_BY_CANCEL,    // its future was cancelled
    STOP_BY_TIMEOUT,   // its time is over
    STOP_BY_SHUTDOWN,  // its executor is shut down
} stop_reason;

#endif
