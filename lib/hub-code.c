/* Names as the services write them. Sources: docs/hub-limits.md, "Codes". */
#include "lib/hub-code.h"

#include <strings.h>

#include "lib/macro.h"

static const struct {
        unsigned code;
        const char *name;
} codes[] = {
        { 400000, "GenericBadRequest" },
        { 400001, "InvalidProtocolVersion" },
        { 400003, "InvalidOperation" },
        { 400004, "ArgumentInvalid" },
        { 400005, "ArgumentNull" },
        { 400006, "IotHubFormatError" },
        { 400008, "BlobContainerValidationError" },
        { 400012, "DeserializationError" },
        { 400013, "BulkRegistryOperationFailure" },
        { 400014, "DefaultStorageEndpointNotConfigured" },
        { 400015, "InvalidFileUploadCorrelationId" },
        { 400016, "ExpiredFileUploadCorrelationId" },
        { 400020, "InvalidStorageEndpointOrBlob" },
        { 400023, "EtagDoesNotMatch" },
        { 400024, "RequestTimedOut" },
        { 400027, "ConnectionForcefullyClosedOnNewConnection" },
        { 400028, "InvalidDeviceScope" },
        { 400029, "ConnectionForcefullyClosedOnFaultInjection" },
        { 400030, "ConnectionRejectedOnFaultInjection" },
        { 400035, "InvalidPolicyKey" },
        { 400036, "BulkRegenerateDeviceKeyOperationFailure" },
        { 401000, "GenericUnauthorized" },
        { 401001, "IotHubNotFound" },
        { 401002, "IotHubUnauthorizedAccess" },
        { 401003, "IotHubUnauthorized" },
        { 403000, "GenericForbidden" },
        { 403001, "IotHubSuspended" },
        { 403002, "IotHubQuotaExceeded" },
        { 403003, "JobQuotaExceeded" },
        { 403004, "DeviceMaximumQueueDepthExceeded" },
        { 403006, "DeviceMaximumActiveFileUploadLimitExceeded" },
        { 403007, "DeviceMaximumQueueSizeExceeded" },
        { 403009, "InvalidMessageExpiryTime" },
        { 403010, "OperationNotAvailableInCurrentTier" },
        { 403012, "DeviceDisabled" },
        { 403800, "DeviceMaximumInflightMethodExceeded" },
        { 404000, "GenericNotFound" },
        { 404001, "DeviceNotFound" },
        { 404002, "JobNotFound" },
        { 404010, "ModuleNotFound" },
        { 404012, "IotHubFailingOver" },
        { 404013, "FeatureNotSupported" },
        { 404103, "DeviceNotOnline" },
        { 404104, "DeviceConnectionClosedRemotely" },
        { 404301, "ConfigurationNotFound" },
        { 405000, "GenericMethodNotAllowed" },
        { 405102, "OperationNotAllowedInCurrentState" },
        { 409000, "GenericConflict" },
        { 409001, "DeviceAlreadyExists" },
        { 409002, "LinkCreationConflict" },
        { 409103, "JobAlreadyExists" },
        { 409301, "ModuleAlreadyExistsOnDevice" },
        { 409401, "ConfigurationAlreadyExists" },
        { 412000, "GenericPreconditionFailed" },
        { 412001, "PreconditionFailed" },
        { 412002, "DeviceMessageLockLost" },
        { 413000, "GenericRequestEntityTooLarge" },
        { 413001, "MessageTooLarge" },
        { 413002, "TooManyDevices" },
        { 413003, "TooManyModulesOnDevice" },
        { 413101, "ConfigurationCountLimitExceeded" },
        { 415000, "GenericUnsupportedMediaType" },
        { 429000, "GenericTooManyRequests" },
        { 429001, "ThrottlingException" },
        { 429002, "ThrottlingBacklogLimitExceeded" },
        { 429003, "ThrottlingBacklogTimeout" },
        { 429004, "ThrottlingMaxActiveJobCountExceeded" },
        { 429005, "DeviceThrottlingLimitExceeded" },
        { 499000, "ClientClosedRequest" },
        { 500000, "GenericServerError" },
        { 500001, "ServerError" },
        { 500008, "GenericTimeout" },
        { 502000, "GenericBadGateway" },
        { 503000, "GenericServiceUnavailable" },
        { 503001, "ServiceUnavailable" },
        { 503003, "PartitionNotFound" },
        { 503005, "ServerBusy" },
        { 503006, "IotHubRestoring" },
        { 503101, "ConnectionUnavailable" },
        { 503102, "DeviceUnavailable" },
        { 504000, "GenericGatewayTimeout" },
        { 504101, "GatewayTimeout" },
        /* Spellings that differ between the documents and the services. */
        { 401003, "IotHubUnauthorizedException" },
        { 401000, "Unauthorized" },
        { 429002, "ThrottleBacklogLimitExceeded" },
        { 429002, "ThrottlingBacklogLimit" },
        { 412001, "PreconditionFailedException" },
        { 404001, "DeviceNotFoundException" },
};

const char *hub_code_to_name(unsigned code) {
        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (codes[i].code == code)
                        return codes[i].name;
        return NULL;
}

unsigned hub_code_from_name(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (strcasecmp(codes[i].name, name) == 0)
                        return codes[i].code;
        return 0;
}
