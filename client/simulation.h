/* simulation.h: the readings of a device that isn't there; pure. */
#pragma once

#include <stdint.h>

#include "lib/time-util.h"

typedef struct SimulationValues {
        const char *device;
        double wind_speed; /* m/s */
        uint64_t number;
        usec_t realtime_usec;
} SimulationValues;

/* Fills in %d, %w, %n, %t and %%; another % stays. The device id goes in as the inside of a JSON
 * string. *ret is the caller's. 0 or -ENOMEM. */
int simulation_expand(const char *template, const SimulationValues *v, char **ret);

/* Around an average of 10, within 2; unit: random, 0 to 1. */
double simulation_wind_speed(double unit);
