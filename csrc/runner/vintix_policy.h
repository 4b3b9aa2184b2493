/* A policy that `vintix-fast export` wrote, on the robot: states in, joint targets out.
 *
 *   vintix_policy* policy = vintix_open("policy.bin", "", message, sizeof message);
 *   every period:  vintix_step(policy, &state, target);
 *
 * Needs neither Python nor torch.  After vintix_open nothing allocates memory, starts a thread or writes anywhere.  A
 * policy belongs to one thread; several policies may run side by side.  Docs: docs/deployment.md.
 *
 * Numbers of joints are in the contract's order: legs FR, FL, RR, RL, each from the base down.
 */
#ifndef VINTIX_POLICY_H
#define VINTIX_POLICY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VINTIX_API __attribute__((visibility("default")))

typedef struct vintix_policy vintix_policy;

/* What vintix_step says.  Unless it is VINTIX_OK the target is the default pose, and the next sound state begins a new
 * episode. */
typedef enum {
  VINTIX_OK = 0,
  VINTIX_NOT_FINITE = 1,    /* a sensor, or a reward that must be measured, is NaN or infinite, or the quaternion is 0 */
  VINTIX_FALLEN = 2,        /* roll or pitch beyond the contract's max_tilt_rad */
  VINTIX_POLICY_FAILED = 3, /* the model's answer is not finite; its history is forgotten */
  VINTIX_NO_STATE = 4       /* said by vintix_hold */
} vintix_status;

/* What a robot senses; J joints.  The arrays are read during the call alone. */
typedef struct {
  const float* gyro_rad_s;      /* [3] angular velocity, body frame */
  const float* quaternion;      /* [4] orientation of the base, w x y z; of any length but 0 */
  const float* joint_pos_rad;   /* [J] */
  const float* joint_vel_rad_s; /* [J] */
  float reward;                 /* of the last step; read only where the contract's reward is "true" */
} vintix_state;

/* Reads and checks a file; seconds at most.  implementation: "" for the fastest that the processor has, or its name.
 * NULL on failure; then message [message_size] says what is wrong with the file. */
VINTIX_API vintix_policy* vintix_open(const char* path, const char* implementation, char* message, size_t message_size);
VINTIX_API void vintix_close(vintix_policy* policy); /* NULL does nothing */

VINTIX_API const char* vintix_contract(const vintix_policy* policy); /* JSON, the same as contract.json */
VINTIX_API const char* vintix_implementation(const vintix_policy* policy);
VINTIX_API const char* vintix_says(vintix_status status); /* in words */
VINTIX_API int vintix_joints(const vintix_policy* policy);
VINTIX_API int vintix_observation_size(const vintix_policy* policy);
VINTIX_API double vintix_period_s(const vintix_policy* policy);
VINTIX_API float vintix_kp(const vintix_policy* policy);                  /* Nm/rad, of every joint */
VINTIX_API float vintix_kd(const vintix_policy* policy);                  /* Nm s/rad */
VINTIX_API const float* vintix_default_pose(const vintix_policy* policy); /* [J] rad */

/* One period: from the state at its beginning to the joint targets [J] (rad) that hold until its end.  The contract's
 * latency is in it: with latency_steps 1 they are what the state one period ago asked for, so they may be sent at once.
 * Targets are cut to the joints' ranges. */
VINTIX_API vintix_status vintix_step(vintix_policy* policy, const vintix_state* state, float* target_rad);

/* The same without a state, which came late or not at all. */
VINTIX_API vintix_status vintix_hold(vintix_policy* policy, float* target_rad);

/* From the next step on, noise is added to the model's actions, so that a log of them can be learnt from: correlated in
 * time (0.7), of standard deviation sigma in action units (the contract's action_scale_rad each); 0 for none, as at
 * first.  Each call begins the noise anew; the same seed gives the same.  Targets stay within the joints' ranges. */
VINTIX_API void vintix_explore(vintix_policy* policy, float sigma, uint64_t seed);

/* What the last vintix_step told the model: observation [9 + 2 J], the executed action [J] before it was cut, and the
 * reward of the step before.  Any pointer may be NULL. */
VINTIX_API void vintix_last(const vintix_policy* policy, float* observation, float* action, float* reward);

/* The model's action [J] of the last vintix_step, without exploration. */
VINTIX_API void vintix_meant(const vintix_policy* policy, float* action);

/* The next state begins an episode: "no previous step", no waiting action.  The history stays. */
VINTIX_API void vintix_begin_episode(vintix_policy* policy);
/* The same, and the history is forgotten. */
VINTIX_API void vintix_forget(vintix_policy* policy);

/* The model alone, without observation, latency or limits: one more token of the history -> action [J]. */
VINTIX_API void vintix_act(vintix_policy* policy, const float* observation, const float* previous_action,
                           float previous_reward, int32_t step_num, float* action);

#ifdef __cplusplus
}
#endif
#endif
