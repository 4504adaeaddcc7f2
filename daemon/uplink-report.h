/* uplink-report.h: tells the journal what the uplink meets: the sentence with remedy and next try, the
 * message id of its class, the fields. What is worth a line uplink-trouble.h decides; here only a flood
 * of them is held back and counted. */
#pragma once

#include <stdbool.h>

#include "lib/time-util.h"
#include "daemon/log.h"
#include "daemon/uplink-trouble.h"

typedef struct UplinkReport {
        UplinkErrorClass class; /* of the last error, NONE: none yet */
        usec_t error_realtime_usec;
        bool diagnosed;    /* the class says more than the text */
        bool disconnected; /* a connection was lost, not only a try */
        char error[640];   /* a sentence */
        bool told_failure; /* the last line was of a failure */
        LogRate rate;
} UplinkReport;

/* Whom and when a line is about. */
typedef struct UplinkReportAbout {
        const char *hub, *device; /* borrowed, may be NULL */
        const char *key;          /* the key of the next or present connection, NULL: there is one only */
        usec_t next_try_in_usec;  /* USEC_INFINITY: none is planned */
} UplinkReportAbout;

void uplink_report_init(UplinkReport *r);

/* Keeps why something failed; the line comes with uplink_report_news(). class: as the connection saw
 * it. */
void uplink_report_error(UplinkReport *r, UplinkErrorClass class, bool disconnected,
                         const char *format, ...) _printf_(4, 5);

/* The class that it turned out to be. */
void uplink_report_diagnosis(UplinkReport *r, UplinkErrorClass class);

void uplink_report_news(UplinkReport *r, const UplinkNews *news, const UplinkReportAbout *about);

/* One key was refused and the next try takes the other, or it worked. */
void uplink_report_key_refused(const UplinkReportAbout *about, const char *refused_key);

/* The start waits for a plausible clock. */
void uplink_report_clock_wait(usec_t realtime_usec, usec_t span_usec);
