-- Second part of every learner script but reconcile: stops on a Redis that may have forgotten.
--
-- KEYS, ARGV  as in fence.lua
-- answer      the error FORGOTTEN when the marker is absent or not the caller's
if redis.call('GET', incarnation_key) ~= incarnation then
  return redis.error_reply('FORGOTTEN reconcile first')
end
