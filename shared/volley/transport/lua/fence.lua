-- First part of every learner script: names its keys and stops a learner that was overtaken.
--
-- KEYS    1 epoch  2 incarnation  3 outstanding  4 tasks  5 results: all declared, always these
-- ARGV    1 the caller's epoch  2 the marker of its last reconcile  3... the script's own
-- answer  the error FENCED when a learner with a higher epoch has claimed the run
local epoch_key, incarnation_key, outstanding, tasks, results = unpack(KEYS)
local epoch = ARGV[1]

-- A Redis that was restarted or failed over may have lost its last writes: the marker names the
-- process that wrote it, so that it dies with that process even where its key survives.
local incarnation = ARGV[2] .. ':' .. string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

-- Remove what outstanding[number] points at: 't:<task id>' or 'r:<result id>'.
local function remove(held)
  local id = string.sub(held, 3)
  if string.sub(held, 1, 2) == 't:' then
    redis.call('XACK', tasks, 'workers', id)
    redis.call('XDEL', tasks, id)
  else
    redis.call('XDEL', results, id)
  end
end

local stored_epoch = redis.call('GET', epoch_key)
if stored_epoch and tonumber(stored_epoch) > tonumber(epoch) then
  return redis.error_reply('FENCED a learner with epoch ' .. stored_epoch .. ' has taken over')
end
