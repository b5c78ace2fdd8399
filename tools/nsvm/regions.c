// SPDX-License-Identifier: GPL-2.0
/*
 * For selftests that are newer than the kernel they run on: their library wants
 * KVM_SET_USER_MEMORY_REGION2, which came with Linux 6.8.  Without guest_memfd it
 * is KVM_SET_USER_MEMORY_REGION, and its argument begins with that one's.
 *
 * Linked with -Wl,--wrap=ioctl.
 */
#include <errno.h>
#include <linux/kvm.h>

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	int ret = __real_ioctl(fd, request, arg);

	if (request == KVM_CHECK_EXTENSION && arg == (void *)KVM_CAP_USER_MEMORY2)
		return 1;

	if (request == KVM_SET_USER_MEMORY_REGION2 && ret && (errno == ENOTTY || errno == EINVAL))
		return __real_ioctl(fd, KVM_SET_USER_MEMORY_REGION, arg);

	return ret;
}
