/* ctl.h: "iothub-emulator ctl": asks the running emulator for trouble, over its local socket. */
#pragma once

/* argv[0] is "ctl". Says on stderr what went wrong. Returns the exit code: 0; 1 (cut: that device
 * has no connection); 64 usage; 69 no emulator runs there; 75 the wait took too long; 76 the answer
 * is none. */
int ctl_main(int argc, char **argv);
