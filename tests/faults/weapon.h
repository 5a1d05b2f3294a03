/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to a device in a worker on purpose: one file for each sort of device. */
#ifndef TESTS_FAULTS_WEAPON_H
#define TESTS_FAULTS_WEAPON_H

#ifdef __cplusplus
extern "C" {
#endif

/* Something on the device writes to where there is nothing: now, or in what is computed next. */
void weapon_illegal(void);
/* Something on the device does not end, and this does not return; or what is computed next does not
 * end. */
void weapon_endless(void);

#ifdef __cplusplus
}
#endif

#endif
