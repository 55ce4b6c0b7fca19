// server_sockets: in the child of a fork, lets go of what a server has open for others.
//
// A connection ends for its other side when every process has closed it.  A child that lives on has the
// connections which the program had accepted as it was forked, and what it listens on: then who reads one to
// its end waits for the child too.
//
// The program's objects in the child still have the numbers, and close them when they die.  So each number
// stays taken, by /dev/null.
//
// Finds them by /proc/self/fd; without it, or without /dev/null, leaves all as it is.  Allocates nothing and
// takes no lock, so that it may be called right after a fork of a process that has threads.  No Python.
#ifndef PYCONC_SERVER_SOCKETS_H
#define PYCONC_SERVER_SOCKETS_H

// Lets go of the sockets that listen, and of those that were accepted from one of these: they have its
// address.
void server_sockets_leave(void);

#endif
