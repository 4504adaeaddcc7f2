/* state-folder.h: where the emulator keeps its files. */
#pragma once

/* given, or where it is NULL the default of this user; the caller's. 0 or -ENOMEM. */
int state_folder_path(const char *given, char **ret);

/* Creates it with the folders above it, where they are missing. 0 or -errno. */
int state_folder_make(const char *path);
