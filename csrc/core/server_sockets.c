#define _GNU_SOURCE  // dup3()
#include "server_sockets.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

// A program that listens at more places keeps some connections.
#define LISTENERS_MAX 16

typedef union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
} address;

typedef struct listeners {
    address of[LISTENERS_MAX];
    size_t count;
} listeners;

// As the kernel writes it.
typedef struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char kind;
    char name[];
} entry;

// Zeroes what the kernel does not write: a local address may end anywhere.
static bool
read_address(int fd, address *where)
{
    socklen_t length = sizeof *where;
    memset(where, 0, sizeof *where);
    return getsockname(fd, &where->any, &length) == 0;
}

static bool
is_same_place(const address *left, const address *right)
{
    if (left->any.sa_family != right->any.sa_family) {
        return false;
    }
    switch (left->any.sa_family) {
    case AF_INET:  // a listener may be at all addresses of the machine
        return left->v4.sin_port == right->v4.sin_port;
    case AF_INET6:
        return left->v6.sin6_port == right->v6.sin6_port;
    case AF_UNIX:
        return memcmp(left->local.sun_path, right->local.sun_path, sizeof left->local.sun_path) == 0;
    default:
        return false;
    }
}

// First, of each file: notes a listener.
static void
note_listener(int fd, listeners *all)
{
    int is_listener = 0;
    socklen_t length = sizeof is_listener;
    if (all->count < LISTENERS_MAX && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listener, &length) == 0
        && is_listener && read_address(fd, &all->of[all->count])) {
        all->count++;
    }
}

// Then, of each file: whether it is a listener, or has the address of one.
static bool
is_of_server(int fd, const listeners *all)
{
    address own;
    if (!read_address(fd, &own)) {
        return false;
    }
    for (size_t i = 0; i < all->count; i++) {
        if (is_same_place(&own, &all->of[i])) {
            return true;
        }
    }
    return false;
}

// Goes through all files that are open: notes listeners, or puts `null` in the place of what is a server's.
static void
go_through(int directory, listeners *all, int null)
{
    _Alignas(entry) char buffer[2048];
    long size;
    (void)lseek(directory, 0, SEEK_SET);
    while ((size = syscall(SYS_getdents64, directory, buffer, sizeof buffer)) > 0) {
        for (long place = 0; place < size;) {
            const entry *each = (const entry *)(const void *)(buffer + place);
            int fd = atoi(each->name);  // 0 for the folder itself and its parent
            place += each->length;
            if (fd == 0) {
                continue;
            }
            if (null < 0) {
                note_listener(fd, all);
            }
            else if (is_of_server(fd, all)) {
                (void)dup3(null, fd, O_CLOEXEC);
            }
        }
    }
}

void
server_sockets_leave(void)
{
    listeners all = {.count = 0};
    int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return;
    }
    go_through(directory, &all, -1);
    if (all.count > 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0) {
            go_through(directory, &all, null);
            close(null);
        }
    }
    close(directory);
}
