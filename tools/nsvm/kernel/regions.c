// SPDX-License-Identifier: GPL-2.0
/*
 * An ioctl() for selftests that are newer than the kernel they run on: their
 * library wants KVM_SET_USER_MEMORY_REGION2, which came with Linux 6.8.  Without
 * guest_memfd that is KVM_SET_USER_MEMORY_REGION, whose argument is the beginning
 * of the other one's.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	long arg;
	int ret;

	va_start(ap, request);
	arg = va_arg(ap, long);
	va_end(ap);

	if (request == KVM_CHECK_EXTENSION && arg == KVM_CAP_USER_MEMORY2)
		return 1;

	ret = syscall(SYS_ioctl, fd, request, arg);
	if (request == KVM_SET_USER_MEMORY_REGION2 && ret && (errno == ENOTTY || errno == EINVAL))
		ret = syscall(SYS_ioctl, fd, KVM_SET_USER_MEMORY_REGION, arg);

	return ret;
}
