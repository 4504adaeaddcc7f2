#include "lib/buffer.h"
#include "lib/macro.h"
#include "client/message-template.h"
#include "client/simulation.h"

#define WIND_SPEED_AVERAGE 10.0
#define WIND_SPEED_SWING 2.0

double simulation_wind_speed(double unit) {
        return WIND_SPEED_AVERAGE + (2 * unit - 1) * WIND_SPEED_SWING;
}

/* The letter behind a percent sign. 1, 0 (it stands for nothing) or -ENOMEM. */
static int expand_one(Buffer *b, char letter, const SimulationValues *v) {
        char stamp[FORMAT_TIMESTAMP_MAX];
        int r;

        switch (letter) {
        case 'd': r = json_escape_append(b, v->device, strlen(v->device)); break;
        case 'w': r = buffer_appendf(b, "%.2f", v->wind_speed); break;
        case 'n': r = buffer_appendf(b, "%" PRIu64, v->number); break;
        case 't':
                r = buffer_append_string(b,
                                         format_timestamp(stamp, sizeof(stamp), v->realtime_usec));
                break;
        case '%': r = buffer_append(b, "%", 1); break;
        default: return 0;
        }
        return r < 0 ? r : 1;
}

int simulation_expand(const char *template, const SimulationValues *v, char **ret) {
        _cleanup_(buffer_done) Buffer b = {};
        int r;

        for (const char *p = template; *p; p++) {
                r = *p == '%' ? expand_one(&b, p[1], v) : 0;
                if (r > 0)
                        p++;
                else if (r == 0)
                        r = buffer_append(&b, p, 1);
                if (r < 0)
                        return r;
        }
        r = buffer_append(&b, "", 1);
        if (r < 0)
                return r;
        *ret = (char *) TAKE_PTR(b.data);
        return 0;
}
