/* LD_PRELOAD for the Linux Test Project: whoever mounts the device $ASHLAR_LTP_DEVICE gets the directory
 * $ASHLAR_LTP_AREA there, a part of the filesystem under test, with the flags of mount(2) that a bound
 * directory can have. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#define OF_A_PLACE (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME)

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
	int (*real)(const char *, const char *, const char *, unsigned long, const void *) = dlsym(RTLD_NEXT, "mount");
	const char *device = getenv("ASHLAR_LTP_DEVICE"), *area = getenv("ASHLAR_LTP_AREA");

	if (!device || !area || flags & (MS_BIND | MS_MOVE))
		return real(source, target, type, flags, data);
	/* Where a device was to be mounted anew, with whatever source, there is only a place to change. */
	if (!(flags & MS_REMOUNT)) {
		if (!source || strcmp(source, device))
			return real(source, target, type, flags, data);
		if (real(area, target, NULL, MS_BIND, NULL))
			return -1;
	}
	if (!(flags & (OF_A_PLACE | MS_REMOUNT)))
		return 0;
	if (!real(NULL, target, NULL, MS_REMOUNT | MS_BIND | (flags & OF_A_PLACE), NULL))
		return 0;
	if (!(flags & MS_REMOUNT))
		umount2(target, MNT_DETACH);
	return -1;
}
