#define _GNU_SOURCE
#include "footprint.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

bool
footprint_read(footprint *now)
{
    char text[256];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t length = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[length < 0 ? 0 : length] = '\0';
    unsigned long long resident, data;
    // In pages: size, resident, shared, text, lib, data and stack.
    if (sscanf(text, "%*u %llu %*u %*u %*u %llu", &resident, &data) != 2) {
        return false;
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    now->resident_bytes = resident * page;
    now->data_bytes = data * page;
    return true;
}

uint64_t
footprint_peak(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) < 0 ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}
